"""The generation loop: ids in, ids out. It knows a decoder, and nothing about text or ONNX.

logits = prefill(prompt)
repeat:  process the logits → sample a token → yield it → stop here?  otherwise  logits = step(token)
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from edgelm.config import GenerationConfig
from edgelm.errors import CancelledError, PromptError
from edgelm.generation.history import TokenHistory
from edgelm.generation.hooks import NO_HOOKS, Hooks
from edgelm.generation.logits_processors import Ids, LogitsProcessor
from edgelm.generation.logprobs import Scorer, StepLogprobs, make_scorer
from edgelm.generation.requests import ModelSizes, Request, check_request
from edgelm.generation.sampling import Sampler, make_sampler
from edgelm.generation.stopping import FinishReason, StoppingCriterion, any_of, deadline, stop_at_tokens


class Decoder(Protocol):
    """A decoder with a KV cache that grows at its end.

    Both verbs return the last token's logits, (V,) float32: a view of a buffer that the next call overwrites and that
    the caller may change.
    """

    @property
    def vocab_size(self) -> int:
        """Width of the logits."""
        ...

    @property
    def context_length(self) -> int:
        """Tokens that fit into the context window."""
        ...

    @property
    def length(self) -> int:
        """Tokens now in the KV cache."""
        ...

    def prefill(self, ids: Sequence[int] | NDArray[np.int64]) -> NDArray[np.float32]:
        """Appends tokens, at least one."""
        ...

    def step(self, token: int) -> NDArray[np.float32]:
        """Appends one token."""
        ...


class Step(NamedTuple):
    """One new token; ``finish_reason`` is set on the last of the answer, ``logprobs`` where they are asked for.

    ``score``: the whole answer's, where beams found it.
    """

    token: int
    finish_reason: FinishReason | None = None
    logprobs: StepLogprobs | None = None
    score: float | None = None


def generate_ids(
    decoder: Decoder,
    prompt_ids: Sequence[int] | NDArray[np.int64],
    config: GenerationConfig,
    *,
    cached: int = 0,
    source: Ids | None = None,
    context_limit: int | None = None,
    hooks: Hooks = NO_HOOKS,
    cancelled: Callable[[], bool] | None = None,
) -> Generator[Step, None, None]:
    """Continues a prompt, token by token; everything is checked before the decoder runs.

    An end-of-sequence token is yielded like any other, and ends the answer with ``stop``; ``max_new_tokens`` or a full
    context window ends it with ``length``. The generator may be closed at any token: the KV cache then holds the
    prompt and all tokens yielded but the last.

    Args:
        decoder: its KV cache must hold the first ``cached`` tokens of the prompt and no more.
        prompt_ids: (T,) tokens in [0, vocab_size), at least one.
        config: which tokens are chosen and when to stop; stop strings belong to the text's layer.
        cached: tokens of the prompt that need no prefill.
        source: what an encoder read; None: the prompt.
        context_limit: a smaller context window than the decoder's own, in tokens.
        hooks: the caller's own processors and stopping criteria.
        cancelled: asked before each run of the decoder.

    Raises:
        ConfigError: the prompt has ``max_length``, or a token that is to be forced is none of the vocabulary.
        PromptError: prompt or source is no list of tokens, or an empty one; or the prompt does not match ``cached``.
        ContextLengthError: the prompt leaves no room for an answer.
        NumericError: while iterating; the logits hold NaN or infinity or allow no token.
        CancelledError: while iterating; ``cancelled`` returned true.
    """
    context = decoder.context_length if context_limit is None else min(context_limit, decoder.context_length)
    sizes = ModelSizes(decoder.vocab_size, context)
    request = Request(prompt=prompt_ids, source=source)
    task = check_request(
        request,
        config,
        sizes,
        processors=hooks.logits_processor,
        guidance=hooks.guidance,
        observer=hooks.observer,
    )
    check_cached(cached, task.prompt.size, decoder.length)
    return _loop(
        decoder,
        history=TokenHistory(task.prompt, task.limit - task.prompt.size),
        cached=cached,
        process=task.process,
        sample=make_sampler(config, observer=hooks.observer),
        score=make_scorer(config),
        should_stop=any_of([stop_at_tokens(config.eos_token_id), *task.stopping_criteria, *hooks.stopping_criteria]),
        max_time=config.max_time,
        cancelled=cancelled or (lambda: False),
    )


def _loop(
    decoder: Decoder,
    *,
    history: TokenHistory,
    cached: int,
    process: LogitsProcessor,
    sample: Sampler,
    score: Scorer | None,
    should_stop: StoppingCriterion,
    max_time: float | None,
    cancelled: Callable[[], bool],
) -> Generator[Step, None, None]:
    is_late = deadline(max_time)
    raise_if_cancelled(cancelled)
    given = decoder.prefill(history.ids[cached:])
    while True:
        logits = process(history.ids, given if score is None else given.copy())  # which it may change
        token = sample(logits)
        history.append(token)
        reason = finish_reason(history, should_stop(history.ids, logits), is_late)
        yield Step(token, reason, score and score(given, token))
        if reason is not None:
            return
        raise_if_cancelled(cancelled)
        given = decoder.step(token)


def finish_reason(history: TokenHistory, stopped: bool, is_late: Callable[[], bool]) -> FinishReason | None:
    """Why the answer ends with its newest token, which may have been told to; None: it goes on."""
    if stopped:
        return FinishReason.STOP
    return FinishReason.LENGTH if history.is_full or is_late() else None


def raise_if_cancelled(cancelled: Callable[[], bool]) -> None:
    """Raises CancelledError where ``cancelled`` returns true."""
    if cancelled():
        raise CancelledError("the generation was cancelled")


def check_cached(cached: int, prompt_length: int, decoder_length: int) -> None:
    """Refuses a count of cached tokens that leaves none of the prompt, or is not the decoder's.

    Raises:
        PromptError: it does.
    """
    if not 0 <= cached < prompt_length:
        raise PromptError(f"cached must be from 0 to {prompt_length - 1} for this prompt, not {cached}")
    if decoder_length != cached:
        raise PromptError(f"the decoder holds {decoder_length} tokens, but the caller says {cached} are cached")
