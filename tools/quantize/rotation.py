"""Orthogonal matrices that spread outliers before rounding, and how they are folded into a model's weights.

With R orthogonal, a residual stream x·R through weights W·R and Rᵀ·W computes what x through W does; but no channel of
x·R stands out, so that one scale for a whole row loses little (QuaRot, arXiv 2404.00456).
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray


@lru_cache
def hadamard(size: int) -> NDArray[np.float32]:
    """The symmetric, orthogonal Hadamard matrix of a power of two: (size, size) float32, entries ±1/√size."""
    matrix = np.ones((1, 1))
    while len(matrix) < size:
        matrix = np.block([[matrix, matrix], [matrix, -matrix]])
    if len(matrix) != size:
        raise ValueError(f"a Hadamard matrix of this kind has a power of two of rows, not {size}")
    scaled: NDArray[np.float32] = (matrix / np.sqrt(size)).astype(np.float32)
    return scaled


def largest_hadamard(columns: int, most: int) -> int:
    """The largest power of two up to ``most`` that divides ``columns``."""
    size = columns & -columns
    return min(size, most)


def rotation_matrix(size: int, seed: int) -> NDArray[np.float64]:
    """A fixed orthogonal matrix: (Hadamard ⊗ random orthogonal) with random signs; (size, size) float64.

    The same seed gives the same matrix on every machine: the random part comes from integers of PCG64's raw stream.
    """
    power = largest_hadamard(size, size)
    stream = np.random.PCG64(seed)
    gaussian = _gaussian(stream, (size // power, size // power))
    orthogonal, triangle = np.linalg.qr(gaussian)
    orthogonal = orthogonal * np.sign(np.diag(triangle))
    signs = np.where(_uniform(stream, size) < 0.5, -1.0, 1.0)
    rotation: NDArray[np.float64] = np.kron(hadamard(power).astype(np.float64), orthogonal) * signs[:, None]
    return rotation


def _uniform(stream: np.random.PCG64, count: int) -> NDArray[np.float64]:
    raw = np.asarray(stream.random_raw(count), np.uint64)
    uniform: NDArray[np.float64] = (raw >> np.uint64(11)).astype(np.float64) * 2.0**-53
    return uniform


def _gaussian(stream: np.random.PCG64, shape: tuple[int, int]) -> NDArray[np.float64]:
    """Box–Muller."""
    count = shape[0] * shape[1]
    radius = np.sqrt(-2 * np.log1p(-_uniform(stream, count)))
    angle = 2 * np.pi * _uniform(stream, count)
    values: NDArray[np.float64] = radius * np.cos(angle)
    return values.reshape(shape)
