"""The logits processors that a configuration asks for, in transformers' order."""

from __future__ import annotations

from edgelm.config import GenerationConfig
from edgelm.errors import ConfigError
from edgelm.generation.logits_processors import Ids, LogitsProcessor, MinNewTokens, RepetitionPenalty
from edgelm.generation.ngram_processors import NoRepeatNGram, NoRepeatSourceNGram
from edgelm.generation.token_processors import (
    ForceTokens,
    MinLength,
    NoBadWords,
    SuppressTokens,
    SuppressTokensAtBegin,
)


def default_processors(
    config: GenerationConfig, *, prompt_length: int, limit: int, source: Ids, vocab_size: int
) -> list[LogitsProcessor]:
    """What is to be applied to the logits of one sequence, before the caller's own processors.

    End tokens, bad words and suppressed tokens outside the vocabulary never come, and are left out.

    Args:
        config: what is asked for.
        prompt_length: tokens of the sequence that are not the answer's.
        limit: tokens that the sequence may have, prompt and answer.
        source: what an encoder read; of a decoder-only model, the prompt.
        vocab_size: width of the logits.

    Raises:
        ConfigError: a token that is to be forced is outside the vocabulary.
    """
    _check_forced(config, vocab_size)
    eos = _known(config.eos_token_id, vocab_size)
    processors: list[LogitsProcessor] = []
    if config.repetition_penalty != 1.0:
        processors.append(RepetitionPenalty(config.repetition_penalty))
    if config.no_repeat_ngram_size:
        processors.append(NoRepeatNGram(config.no_repeat_ngram_size))
    if config.encoder_no_repeat_ngram_size:
        processors.append(NoRepeatSourceNGram(config.encoder_no_repeat_ngram_size, source))
    ends = {(token,) for token in eos}
    words = [word for word in config.bad_words_ids if max(word) < vocab_size and word not in ends]
    if words:
        processors.append(NoBadWords(words))
    if config.min_new_tokens and eos:
        processors.append(MinNewTokens(prompt_length, config.min_new_tokens, eos))
    elif config.min_length and eos:
        processors.append(MinLength(config.min_length, eos))
    return [*processors, *_token_processors(config, prompt_length, limit, vocab_size)]


def _token_processors(
    config: GenerationConfig, prompt_length: int, limit: int, vocab_size: int
) -> list[LogitsProcessor]:
    processors: list[LogitsProcessor] = []
    forced_bos = config.forced_bos_token_id
    if forced_bos is not None:
        processors.append(ForceTokens((forced_bos,), 1))
    if config.forced_eos_token_id:
        processors.append(ForceTokens(config.forced_eos_token_id, limit - 1))
    suppressed = _known(config.suppress_tokens, vocab_size)
    if suppressed:
        processors.append(SuppressTokens(suppressed))
    suppressed_at_begin = _known(config.begin_suppress_tokens, vocab_size)
    if suppressed_at_begin:
        # A forced first token is not yet the answer's own.
        begin = prompt_length + (prompt_length == 1 and forced_bos is not None)
        processors.append(SuppressTokensAtBegin(suppressed_at_begin, begin))
    return processors


def _known(tokens: tuple[int, ...], vocab_size: int) -> tuple[int, ...]:
    return tuple(token for token in tokens if token < vocab_size)


def _check_forced(config: GenerationConfig, vocab_size: int) -> None:
    forced = {"forced_bos_token_id": (config.forced_bos_token_id,), "forced_eos_token_id": config.forced_eos_token_id}
    for name, tokens in forced.items():
        for token in tokens:
            if token is not None and token >= vocab_size:
                raise ConfigError(f"{name} is {token}, but token ids are from 0 to {vocab_size - 1}")
