"""The logits processors and warpers that a configuration asks for, in transformers' order."""

from __future__ import annotations

from edgelm.config import GenerationConfig
from edgelm.errors import ConfigError
from edgelm.generation.cutoffs import EpsilonCutoff, EtaCutoff, TopNSigma, TypicalP
from edgelm.generation.logits_processors import (
    Ids,
    LogitsProcessor,
    MinNewTokens,
    MinP,
    RepetitionPenalty,
    Temperature,
    TopK,
    TopP,
)
from edgelm.generation.ngram_processors import NoRepeatNGram, NoRepeatSourceNGram
from edgelm.generation.penalties import CountPenalty, ExponentialDecay, SequenceBias, SourcePenalty
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
        ConfigError: a token that is to be forced or biased is outside the vocabulary.
    """
    _check_vocabulary(config, vocab_size)
    return [
        *_penalties(config, prompt_length, source),
        *_bans(config, prompt_length, source, vocab_size),
        *_token_processors(config, prompt_length, limit, vocab_size),
    ]


def default_warpers(config: GenerationConfig) -> list[LogitsProcessor]:
    """The warpers that a configuration asks for; none when it decodes greedily."""
    if not config.do_sample:
        return []
    # A beam needs a token to go on with beside all those that end it.
    least = 1 if config.num_beams == 1 else max(1, len(config.eos_token_id)) + 1
    warpers: list[LogitsProcessor] = []
    if config.top_n_sigma > 0.0:
        warpers.append(TopNSigma(config.top_n_sigma, least))
    if config.temperature != 1.0:
        warpers.append(Temperature(config.temperature))
    if config.top_k > 0:
        warpers.append(TopK(config.top_k, least))
    if config.top_p < 1.0:
        warpers.append(TopP(config.top_p, least))
    if config.min_p > 0.0:
        warpers.append(MinP(config.min_p, least))
    if config.typical_p < 1.0:
        warpers.append(TypicalP(config.typical_p, least))
    if config.epsilon_cutoff > 0.0:
        warpers.append(EpsilonCutoff(config.epsilon_cutoff, least))
    if config.eta_cutoff > 0.0:
        warpers.append(EtaCutoff(config.eta_cutoff, least))
    return warpers


def _penalties(config: GenerationConfig, prompt_length: int, source: Ids) -> list[LogitsProcessor]:
    processors: list[LogitsProcessor] = []
    if config.sequence_bias:
        processors.append(SequenceBias(config.sequence_bias))
    if config.logit_bias:
        processors.append(SequenceBias(tuple(((token,), bias) for token, bias in config.logit_bias)))
    if config.encoder_repetition_penalty != 1.0:
        processors.append(SourcePenalty(config.encoder_repetition_penalty, source))
    if config.repetition_penalty != 1.0:
        processors.append(RepetitionPenalty(config.repetition_penalty))
    if config.presence_penalty or config.frequency_penalty:
        processors.append(CountPenalty(prompt_length, config.presence_penalty, config.frequency_penalty))
    return processors


def _bans(config: GenerationConfig, prompt_length: int, source: Ids, vocab_size: int) -> list[LogitsProcessor]:
    eos = _known(config.eos_token_id, vocab_size)
    processors: list[LogitsProcessor] = []
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
    return processors


def _token_processors(
    config: GenerationConfig, prompt_length: int, limit: int, vocab_size: int
) -> list[LogitsProcessor]:
    processors: list[LogitsProcessor] = []
    forced_bos = config.forced_bos_token_id
    if forced_bos is not None:
        processors.append(ForceTokens((forced_bos,), 1))
    if config.forced_eos_token_id:
        processors.append(ForceTokens(config.forced_eos_token_id, limit - 1))
    eos = _known(config.eos_token_id, vocab_size)
    if config.exponential_decay_length_penalty is not None and eos:
        start, factor = config.exponential_decay_length_penalty
        processors.append(ExponentialDecay(prompt_length + start, factor, eos))
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


def _check_vocabulary(config: GenerationConfig, vocab_size: int) -> None:
    named: dict[str, tuple[int | None, ...]] = {
        "forced_bos_token_id": (config.forced_bos_token_id,),
        "forced_eos_token_id": config.forced_eos_token_id,
        "sequence_bias": tuple(token for sequence, _ in config.sequence_bias for token in sequence),
        "logit_bias": tuple(token for token, _ in config.logit_bias),
    }
    for name, tokens in named.items():
        for token in tokens:
            if token is not None and token >= vocab_size:
                raise ConfigError(f"{name} is {token}, but token ids are from 0 to {vocab_size - 1}")
