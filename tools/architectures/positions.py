"""Tables that say where a token stands: sinusoidal vectors, and the buckets of T5's relative bias.

All are computed in the order and precision of the reference implementation, so that they round as its do.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray


def split_sinusoids(count: int, size: int) -> NDArray[np.float32]:
    """Marian's and Pegasus' table, (count, size): sines of the even dimensions, then cosines of the odd ones."""
    dimension = np.arange(size)
    angles = np.arange(count)[:, None] / np.power(10000, 2 * (dimension // 2) / size)
    return np.concatenate([np.sin(angles[:, 0::2]), np.cos(angles[:, 1::2])], axis=1).astype(np.float32)


def tensor2tensor_sinusoids(count: int, size: int) -> NDArray[np.float32]:
    """M2M100's table, (count, size): sines, then cosines, and a zero where ``size`` is odd."""
    half = size // 2
    step = np.float32(-math.log(10000) / (half - 1))
    exponents = np.arange(half, dtype=np.float32) * step
    frequencies = np.exp(exponents.astype(np.float64)).astype(np.float32)
    angles = np.arange(count, dtype=np.float32)[:, None] * frequencies
    table = np.zeros((count, size), np.float32)
    table[:, : 2 * half] = np.concatenate([np.sin(angles), np.cos(angles)], axis=1)
    return table


def buckets_back(buckets: int, max_distance: int) -> NDArray[np.int64]:
    """The bucket of each distance 0 … max_distance: (max_distance + 1,); farther tokens are in the last one's.

    The first half of the buckets are for one distance each, the others grow like logarithms (T5, arXiv 1910.10683).
    """
    exact = buckets // 2
    distance = np.arange(max_distance + 1)
    far = np.log(np.maximum(distance, 1).astype(np.float32) / np.float32(exact))
    grown = far / np.float32(math.log(max_distance / exact)) * np.float32(buckets - exact)
    logarithmic = np.minimum(exact + grown.astype(np.int64), buckets - 1)
    return np.where(distance < exact, distance, logarithmic)


def buckets_both_ways(buckets: int, max_distance: int) -> NDArray[np.int64]:
    """The bucket of each distance −max_distance … max_distance of a key from its query: (2 · max_distance + 1,)."""
    back = buckets_back(buckets // 2, max_distance)
    return np.concatenate([back[::-1], back[1:] + buckets // 2])
