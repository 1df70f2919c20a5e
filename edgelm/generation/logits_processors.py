"""Logits processors: ``(ids, logits) -> logits``, each the plain statement of its rule over one (V,) vector.

They follow transformers 4.57, in its order (``default_processors.py``); then come the caller's own processors, and,
when sampling, the warpers, of which ``least`` tokens always stay. None of them changes the logits it is given.
The sampler reaches the same tokens faster (``candidates.py``) and falls back on these where rounding could decide.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from edgelm.errors import ConfigError
from edgelm.generation.distributions import softmax
from edgelm.generation.observer import Observer

Ids: TypeAlias = NDArray[np.int64]
Logits: TypeAlias = NDArray[np.float32]


class LogitsProcessor(Protocol):
    """A function, or what can be called like one."""

    def __call__(self, ids: Ids, logits: Logits, /) -> Logits:
        """``ids``: all tokens so far, prompt and answer, read-only; ``logits``: (V,) float32; returns (V,) float32."""


NO_IDS: Ids = np.empty(0, np.int64)
"""For processors that do not look at the tokens."""

REMOVED = np.float32(-np.inf)
"""The logit of a token that may not come."""

_LEAST_TEMPERATURE = float(np.finfo(np.float32).tiny)


class RepetitionPenalty(NamedTuple):
    """Makes each token that has occurred less likely, once, however often it occurred.

    Source: Keskar et al. 2019, "CTRL"; a positive logit is divided by the penalty, a negative one multiplied.
    """

    penalty: float

    def __call__(self, ids: Ids, logits: Logits) -> Logits:
        """Returns a penalized copy."""
        seen = logits[ids]
        penalized = logits.copy()
        # A token that occurs twice in ids is written twice with the same value.
        with np.errstate(all="ignore"):
            penalized[ids] = np.where(seen < 0, seen * self.penalty, seen / self.penalty)
        return penalized


class MinNewTokens(NamedTuple):
    """Rules the end-of-sequence tokens out until the answer has its minimum of tokens."""

    prompt_length: int
    min_new_tokens: int
    eos_token_id: tuple[int, ...]

    def __call__(self, ids: Ids, logits: Logits) -> Logits:
        """Returns a masked copy, or the logits themselves once the minimum is reached."""
        if len(ids) - self.prompt_length >= self.min_new_tokens:
            return logits
        masked = logits.copy()
        masked[list(self.eos_token_id)] = REMOVED
        return masked


class Temperature(NamedTuple):
    """Divides the logits: below 1 sharpens the distribution, above 1 flattens it."""

    temperature: float

    def __call__(self, ids: Ids, logits: Logits) -> Logits:
        """Returns a scaled copy; if it left the range of float32, the scaled distances to the largest logit."""
        divisor = np.float32(max(self.temperature, _LEAST_TEMPERATURE))
        with np.errstate(over="ignore", under="ignore"):
            scaled = logits / divisor
            if np.isinf(scaled.max()):
                scaled = (logits - logits.max()) / divisor
        return scaled


class TopK(NamedTuple):
    """Keeps the k largest logits, and all that are tied with the k-th."""

    top_k: int
    least: int = 1

    def __call__(self, ids: Ids, logits: Logits) -> Logits:
        """Returns a copy with the others at -inf."""
        count = max(self.top_k, self.least)
        if count >= logits.size:
            return logits
        kth_largest = np.sort(logits)[-count]
        return np.where(logits < kth_largest, REMOVED, logits)


class TopP(NamedTuple):
    """Keeps the smallest set of most likely tokens that reaches the probability ``top_p``, the crossing one included.

    Of equally likely tokens at the edge the lower ids stay. Source: Holtzman et al. 2019, nucleus sampling.
    """

    top_p: float
    least: int = 1

    def __call__(self, ids: Ids, logits: Logits) -> Logits:
        """Returns a copy with the others at -inf."""
        rising = np.argsort(-logits, kind="stable")[::-1]
        mass_up_to = np.cumsum(softmax(logits[rising]), dtype=np.float64).astype(np.float32)
        removed = mass_up_to <= np.float32(1.0 - self.top_p)
        removed[-self.least :] = False
        kept = logits.copy()
        kept[rising[removed]] = REMOVED
        return kept


class MinP(NamedTuple):
    """Keeps the tokens at least ``min_p`` times as likely as the likeliest. Source: Nguyen et al. 2024."""

    min_p: float
    least: int = 1

    def __call__(self, ids: Ids, logits: Logits) -> Logits:
        """Returns a copy with the others at -inf."""
        probabilities = softmax(logits)
        removed = probabilities < np.float32(self.min_p) * probabilities.max()
        if self.least > 1:
            removed[np.argsort(-logits, kind="stable")[: self.least]] = False
        return np.where(removed, REMOVED, logits)


def compose(processors: Sequence[LogitsProcessor], observer: Observer | None = None) -> LogitsProcessor:
    """One processor that applies the given ones in order, and tells the observer.

    Raises:
        ConfigError: on a call, when a processor returns something that is not logits; names the processor.
    """

    def apply(ids: Ids, logits: Logits) -> Logits:
        if observer is not None:
            observer.began(ids, logits)
        for processor in processors:
            logits = _checked(processor, processor(ids, logits), logits.shape)
            if observer is not None:
                observer.processed(processor, logits)
        return logits

    return apply


def _checked(processor: LogitsProcessor, result: object, shape: tuple[int, ...]) -> Logits:
    if not isinstance(result, np.ndarray) or result.shape != shape or result.dtype.kind != "f":
        name = getattr(processor, "__name__", type(processor).__name__)
        found = f"{result.dtype} {result.shape}" if isinstance(result, np.ndarray) else type(result).__name__
        raise ConfigError(f"the logits processor {name} returned {found}; it must return float32 logits of {shape}")
    return result.astype(np.float32, copy=False)
