"""Rounding that knows the inputs: each weight's rounding error is made up for by the weights still to be rounded.

GPTQ (Frantar et al., arXiv 2210.17323) minimises the error of the layer's outputs over calibration inputs X, which
enter as the Hessian XᵀX alone, instead of the error of the weights.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edgelm_tools.quantize.blockwise import MOST_INT4, Blocks, int4_grid, packed_int4, reciprocal
from edgelm_tools.quantize.rowwise import nearest_steps

_BLOCK = 128
_DAMPING = 0.01


def round_to_inputs(
    weight: NDArray[np.float32], scales: NDArray[np.float32], factor: NDArray[np.float32]
) -> NDArray[np.int8]:
    """Rounds weight (N, K) to steps of ``scales`` (N,), in the bounds of ``rowwise``: (K, N) int8, transposed.

    factor: (K, K) float32, see ``error_factor``.
    """
    # In units of the steps, with a row for each input: the loop then works on contiguous memory.
    rest = np.ascontiguousarray((weight * reciprocal(scales)[:, None]).T)
    steps = np.empty(rest.shape, np.int8)
    for start in range(0, len(rest), _BLOCK):
        end = min(start + _BLOCK, len(rest))
        errors = np.empty((end - start, rest.shape[1]), np.float32)
        for row in range(start, end):
            rounded = nearest_steps(rest[row], steps[row - 1] if row % 2 else None)
            steps[row] = rounded
            error = (rest[row] - rounded) / factor[row, row]
            rest[row + 1 : end] -= factor[row, row + 1 : end, None] * error
            errors[row - start] = error
        rest[end:] -= factor[start:end, end:].T @ errors
    return steps


def round_blocks_to_inputs(weight: NDArray[np.float32], block_size: int, factor: NDArray[np.float32]) -> Blocks:
    """Rounds weight (N, K) to int4 in blocks along the inputs; ``factor``: as in ``round_to_inputs``.

    Scale and zero point of a block are chosen when its turn comes, for its weights as they are by then.
    """
    rest = np.ascontiguousarray(weight.T)
    count = -(-len(rest) // block_size)
    steps = np.zeros((count, block_size, rest.shape[1]), np.uint8)
    scales, zeros = np.empty((2, count, rest.shape[1]), np.float32)
    errors = np.empty((block_size, rest.shape[1]), np.float32)
    for place in range(count):
        start, end = place * block_size, min((place + 1) * block_size, len(rest))
        importance = np.diag(factor)[start:end] ** np.float32(-2)
        scale, zero = int4_grid(rest[start:end].T, importance)
        inverse = reciprocal(scale)
        for row in range(start, end):
            rounded = np.clip(np.rint(rest[row] * inverse) + zero, 0, MOST_INT4)
            steps[place, row - start] = rounded
            error = (rest[row] - (rounded - zero) * scale) / factor[row, row]
            rest[row + 1 : end] -= factor[row, row + 1 : end, None] * error
            errors[row - start] = error
        rest[end:] -= factor[start:end, end:].T @ errors[: end - start]
        steps[place, end - start :] = zero
        scales[place], zeros[place] = scale, zero
    return packed_int4(steps.transpose(2, 0, 1), scales.T, zeros.T)


def error_factor(hessian: NDArray[np.float32]) -> NDArray[np.float32]:
    """How an error in one weight is made up for by those behind it: the upper Cholesky factor of the inverse Hessian.

    hessian: (K, K) float32, the sum of xᵀx over calibration inputs x (1, K); it is changed, because a copy of it can be
    a large part of the memory that conversion takes. It is damped, so that float32 is enough and inputs that the
    calibration never saw do no harm.
    """
    diagonal = np.diag(hessian).copy()
    # An input that is always zero has no say: any positive number keeps the matrix invertible.
    diagonal[diagonal == 0] = 1
    np.fill_diagonal(hessian, diagonal + _DAMPING * diagonal.mean())
    return _upper_factor(hessian)


def _upper_factor(matrix: NDArray[np.float32]) -> NDArray[np.float32]:
    """U with UᵀU = matrix⁻¹, by halves: nearly all of the work is products in float32.

    With matrix = (A B; Bᵀ C): U₂ is C's factor, X = B U₂ᵀ, U₁ that of A − X Xᵀ, and U = (U₁ −U₁XU₂; 0 U₂).
    """
    size = len(matrix)
    if size <= _BLOCK:
        lower = np.linalg.cholesky(np.linalg.inv(matrix.astype(np.float64)))
        return np.asarray(lower.T, np.float32)
    half = size // 2
    factor = np.zeros_like(matrix)
    factor[half:, half:] = _upper_factor(matrix[half:, half:])
    across = matrix[:half, half:] @ factor[half:, half:].T
    factor[:half, :half] = _upper_factor(matrix[:half, :half] - across @ across.T)
    factor[:half, half:] = factor[:half, :half] @ (across @ -factor[half:, half:])
    return factor
