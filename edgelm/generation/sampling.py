"""Samplers: ``logits -> token``, composed once from a configuration, outside the loop.

A seed gives the same tokens again, with any version of numpy: a draw takes one raw number of PCG64 a step, and inverts
the cumulative distribution over the kept tokens in the order of their ids.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from edgelm.config import GenerationConfig
from edgelm.errors import NumericError
from edgelm.generation.candidates import min_p_indices, top_k_indices, top_p_indices
from edgelm.generation.default_processors import default_warpers
from edgelm.generation.logits_processors import (
    NO_IDS,
    REMOVED,
    Logits,
    LogitsProcessor,
    MinP,
    Temperature,
    TopK,
    TopP,
)
from edgelm.generation.observer import Observer

Sampler: TypeAlias = Callable[[Logits], int]
"""Chooses a token from logits, (V,) float32, which it leaves as they are; one call is one step."""

Narrower: TypeAlias = Callable[[Logits], tuple[NDArray[np.intp] | None, Logits]]
"""Returns the kept tokens' ids, ascending (None: all), and their logits after temperature."""

# Up to this many tokens a draw is float64 throughout; with more, float32 weights summed in blocks keep a step short.
_PRECISE_SIZE = 8192
_BLOCK = 512


def make_sampler(config: GenerationConfig, *, copy: int = 0, observer: Observer | None = None) -> Sampler:
    """The sampler that a configuration asks for: greedy, or a draw after the warpers; it tells the observer.

    ``copy``: which of several samples of one prompt it is for; where a seed is given, its seed is ``seed + copy``.
    A sampler raises NumericError when the logits hold NaN or infinity or allow no token; the message names the step,
    counted in calls from 1.
    """
    if not config.do_sample:
        return GreedySampler(observer)
    seed = None if config.seed is None else config.seed + copy
    return StochasticSampler(make_narrower(config, observer), seed, observer)


class GreedySampler:
    """The likeliest token; of equals, the lowest id."""

    def __init__(self, observer: Observer | None = None) -> None:
        self._step = 0
        self._observer = observer

    def __call__(self, logits: Logits) -> int:
        """Chooses the token of the next step."""
        self._step += 1
        token = likeliest(logits, self._step)
        if self._observer is not None:
            self._observer.chose(token, None)
        return token


class StochasticSampler:
    """A draw from what the warpers keep, reproducible by the seed; None: another one each time."""

    def __init__(self, narrow: Narrower, seed: int | None, observer: Observer | None = None) -> None:
        self._step = 0
        self._narrow = narrow
        self._observer = observer
        self._random = np.random.PCG64(seed)

    def __call__(self, logits: Logits) -> int:
        """Draws the token of the next step."""
        self._step += 1
        likeliest(logits, self._step)
        tokens, kept = self._narrow(logits)
        uniform = self._uniform()
        index = draw(kept, uniform)
        token = index if tokens is None else int(tokens[index])
        if self._observer is not None:
            self._observer.chose(token, uniform)
        return token

    def _uniform(self) -> float:
        return next_uniform(self._random)


def next_uniform(random: np.random.PCG64) -> float:
    """A number in [0, 1) with 53 bits, from raw bits alone: numpy may change its distributions, not its bits."""
    return float(int(random.random_raw()) >> 11) * 2.0**-53


def likeliest(logits: Logits, step: int) -> int:
    """The token with the largest logit, the first of equals.

    Raises:
        NumericError: a logit is NaN or +infinity, or all are -infinity.
    """
    token = int(logits.argmax())  # numpy's argmax stops at a NaN, so one look finds all three.
    value = float(logits[token])
    if value == -np.inf:
        raise NumericError(f"step {step}: no token is allowed, all {logits.size} logits are -inf")
    if not np.isfinite(value):
        raise NumericError(f"step {step}: the logit of token {token} is {value}; logits must be finite or -inf")
    return token


def make_narrower(config: GenerationConfig, observer: Observer | None = None) -> Narrower:
    """The warpers of a configuration as one fast function, exactly equal to applying ``default_warpers`` in order."""
    warpers = default_warpers(config)

    @np.errstate(over="ignore", under="ignore")
    def narrow(logits: Logits) -> tuple[NDArray[np.intp] | None, Logits]:
        tokens = None
        for warper in warpers:
            if isinstance(warper, Temperature):
                logits = warper(NO_IDS, logits)
            else:
                kept = _kept(warper, logits)
                logits = logits[kept]
                tokens = kept if tokens is None else tokens[kept]
            if observer is not None:
                observer.warped(warper, tokens, logits)
        return tokens, logits

    return narrow


def _kept(warper: LogitsProcessor, logits: Logits) -> NDArray[np.intp]:
    """The tokens that a warper keeps, ascending."""
    match warper:
        case TopK(top_k, least):
            return top_k_indices(logits, max(top_k, least))
        case TopP(top_p, least):
            kept = top_p_indices(logits, top_p)
        case MinP(min_p, least):
            kept = min_p_indices(logits, min_p)
        case _:
            kept, least = NO_IDS, 1
    # Where fewer are kept than must stay, the warper itself says which stay with them.
    return kept if kept.size >= least else np.flatnonzero(warper(NO_IDS, logits) != REMOVED)


@np.errstate(over="ignore", under="ignore")
def draw(logits: Logits, uniform: float) -> int:
    """The index at which the cumulative softmax of the logits, (N,) float32, passes ``uniform`` in [0, 1).

    An index of probability zero is never drawn.
    """
    if logits.size <= _PRECISE_SIZE:
        mass_up_to = np.exp(np.subtract(logits, logits.max(), dtype=np.float64)).cumsum()
        return _passing(mass_up_to, uniform * float(mass_up_to[-1]))
    weights = np.exp(logits - logits.max())
    whole = weights.size - weights.size % _BLOCK
    block_masses = weights[:whole].reshape(-1, _BLOCK).sum(axis=1, dtype=np.float64)
    mass_up_to = np.append(block_masses, weights[whole:].sum(dtype=np.float64)).cumsum()
    target = uniform * float(mass_up_to[-1])
    block = _passing(mass_up_to, target)
    if block > 0:
        target -= float(mass_up_to[block - 1])
    start = block * _BLOCK
    return start + _passing(weights[start : start + _BLOCK].cumsum(dtype=np.float64), target)


def _passing(mass_up_to: NDArray[np.float64], target: float) -> int:
    """The first index whose cumulative mass is above the target; the last with any mass if rounding left none."""
    index = int(mass_up_to.searchsorted(target, side="right"))
    return index if index < mass_up_to.size else int(mass_up_to.searchsorted(mass_up_to[-1]))
