"""Scores of beams: sums of log probabilities, how sequences of different lengths compare, and which are the best."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from edgelm.generation.candidates import top_k_indices

Scores: TypeAlias = NDArray[np.float32]

OUT = np.float32(-np.inf)
"""Below the score of every sequence: of one that is out of the running, and of none at all."""

# A finished sequence is better than none, also where the length penalty takes its score out of float32's range.
_LOWEST = np.finfo(np.float32).min
_LEAST_DIVISOR = np.finfo(np.float32).tiny


def penalized(scores: Scores, length: int, length_penalty: float) -> Scores:
    """What sequences of a length, in tokens of the answer, compete by: score / length ** length_penalty."""
    with np.errstate(over="ignore", under="ignore"):
        divisor = np.maximum(np.float32(np.float64(length) ** length_penalty), _LEAST_DIVISOR)
        competing: Scores = np.maximum(scores / divisor, _LOWEST)
    return competing


def largest(values: Scores, count: int) -> NDArray[np.intp]:
    """Indices of the ``count`` largest values, or of all, largest first; of equals, the first."""
    near = top_k_indices(values, count)
    if near.size < count:  # the others are -inf
        near = np.arange(values.size)
    order: NDArray[np.intp] = near[np.argsort(-values[near], kind="stable")[:count]]
    return order
