"""The tokens that top-k, top-p and min-p keep, found without sorting the vocabulary.

Each function takes logits, (N,) float32, finite or -inf with a finite maximum, and returns the indices it keeps,
ascending; those at -inf are never among them. They keep what the logits processors of the same name keep: few logits
are near the edge, a lower bound on them is cheap, and only those above it are looked at. Where the processors'
float32 rounding could move the edge, the processor itself decides.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from edgelm.generation.logits_processors import NO_IDS, Logits, MinP, TopP

_GROUPS = 2048
# Below these sizes a sort is as quick as anything cleverer.
_SMALL = 4 * _GROUPS
_WORTH_SEARCHING = 1024
_SAMPLE_SIZE = 1024
_LOWEST = float(np.finfo(np.float32).min)
# What the processors' float32 steps (normalizing, summing, the threshold) and any float64 sum can be off by.
_RELATIVE_ROUNDING = 2.0**-21
_ABSOLUTE_ROUNDING = 1e-12
# Widens a floor in the logits against the rounding of log and exp.
_FLOOR_MARGIN = 1e-3
# Below this, probabilities can be subnormal and lose their relative precision.
_LEAST_RATIO = 1e-30


def top_k_indices(logits: Logits, top_k: int) -> NDArray[np.intp]:
    """Indices of the k largest logits and of all tied with the k-th."""
    near = _at_least(logits, _kth_largest_or_below(logits, top_k))
    rank = near.size - top_k
    if rank <= 0:
        return near
    values = logits[near]
    kept = values >= np.partition(values, rank)[rank]
    return near[np.flatnonzero(kept)]


def top_p_indices(logits: Logits, top_p: float) -> NDArray[np.intp]:
    """Indices of the smallest set of most likely tokens that reaches the probability ``top_p``."""
    kept = _top_p_from_candidates(logits, top_p) if logits.size >= _WORTH_SEARCHING else None
    return np.flatnonzero(TopP(top_p)(NO_IDS, logits) >= _LOWEST) if kept is None else kept


def min_p_indices(logits: Logits, min_p: float) -> NDArray[np.intp]:
    """Indices of the tokens at least ``min_p`` times as likely as the likeliest."""
    if min_p >= _LEAST_RATIO:
        largest = logits.max()
        near = _at_least(logits, float(largest) + math.log(min_p) - _FLOOR_MARGIN)
        ratios = np.exp(logits[near] - largest)
        if not np.any(np.abs(ratios - min_p) <= _RELATIVE_ROUNDING * min_p):
            return near[np.flatnonzero(ratios >= min_p)]
    return np.flatnonzero(MinP(min_p)(NO_IDS, logits) >= _LOWEST)


def _top_p_from_candidates(logits: Logits, top_p: float) -> NDArray[np.intp] | None:
    """The same from the largest logits and the sum of the others; None if rounding could decide."""
    largest = logits.max()
    total = float(np.exp(logits - largest).sum(dtype=np.float64))
    divisor, limit = np.float32(total), np.float32(1.0 - top_p)
    for floor in _top_p_floors(logits, float(largest), float(limit) * total):
        near = _at_least(logits, floor)
        values = logits[near]
        rising = np.sort(values)
        weights = np.exp(rising - largest)
        # The processor's arithmetic, but for the tokens below the floor: of them only the sum is known.
        mass_below = max(total - float(weights.sum(dtype=np.float64)), 0.0) / float(divisor)
        unsure = _RELATIVE_ROUNDING * mass_below + _ABSOLUTE_ROUNDING
        if mass_below + unsure > limit * (1.0 - _RELATIVE_ROUNDING):
            continue
        mass_up_to = mass_below + np.cumsum(weights / divisor, dtype=np.float64)
        removed = int(np.searchsorted((mass_up_to + unsure).astype(np.float32), limit, side="right"))
        perhaps_removed = int(np.searchsorted((mass_up_to - unsure).astype(np.float32), limit, side="right"))
        if removed != perhaps_removed:
            return None
        return near[_largest(values, rising, min(removed, values.size - 1))]
    return None


def _at_least(logits: Logits, floor: float) -> NDArray[np.intp]:
    # Rounding the floor to float32 keeps the comparison: no float32 lies between a number and its nearest float32.
    return np.flatnonzero(logits >= np.float32(max(floor, _LOWEST)))


def _kth_largest_or_below(logits: Logits, k: int) -> float:
    """A floor that at least k logits reach: the k-th largest, or the k-th largest of the maxima of disjoint groups."""
    if k >= logits.size:
        return _LOWEST
    if logits.size < _SMALL or k > _GROUPS // 2:
        return float(np.partition(logits, logits.size - k)[logits.size - k])
    rows = logits.size // _GROUPS
    maxima = logits[: rows * _GROUPS].reshape(rows, _GROUPS).max(axis=0)
    return float(np.partition(maxima, _GROUPS - k)[_GROUPS - k])


def _top_p_floors(logits: Logits, largest: float, limit: float) -> Iterator[float]:
    """Falling floors under the edge of top-p; ``limit`` is the weight, relative to the largest, that may be removed.

    The first ones are estimates from a sample of the tokens. Below the last one, no token weighs more than limit / N.
    """
    if logits.size >= _SMALL:
        stride = logits.size // _SAMPLE_SIZE
        sample = np.sort(logits[::stride])
        weight_up_to = np.cumsum(np.exp(sample - np.float32(largest)), dtype=np.float64) * stride
        for share in (0.8, 0.4):
            yield float(sample[min(int(np.searchsorted(weight_up_to, share * limit)), sample.size - 1)])
    yield largest + math.log(limit / logits.size) - _FLOOR_MARGIN


def _largest(values: Logits, rising: Logits, removed: int) -> NDArray[np.intp]:
    """Positions of all values but the ``removed`` least; ``rising`` is their sorted copy; ties keep the first."""
    edge = rising[removed]
    kept = values > edge
    missing = values.size - removed - int(np.count_nonzero(kept))
    kept[np.flatnonzero(values == edge)[:missing]] = True
    return np.flatnonzero(kept)
