"""int8 with one scale for each output, in steps that no processor's arithmetic overflows.

Processors without VNNI multiply activations of 8 bits without a sign by weights of 8 bits, and add the products of two
neighbouring inputs in 16 bits. So the steps of two neighbours come to 128 at most: 255 · 128 < 2¹⁵. All processors then
compute the same integers.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edgelm_tools.quantize.blockwise import reciprocal

MOST = 127
_MOST_OF_TWO = 128


def row_scales(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """The size of a step for each row of (N, K): (N,) float32, the smallest with which all steps are in bounds."""
    paired = rows[:, : rows.shape[1] // 2 * 2]
    of_two = np.abs(paired[:, 0::2] + paired[:, 1::2]).max(axis=1, initial=0) / np.float32(_MOST_OF_TWO)
    scales: NDArray[np.float32] = np.maximum(np.abs(rows).max(axis=1) / np.float32(MOST), of_two)
    return scales


def round_rows(rows: NDArray[np.float32], scales: NDArray[np.float32]) -> NDArray[np.int8]:
    """The nearest steps of ``scales`` (N,) to (N, K) that are in bounds: (K, N) int8, transposed."""
    wanted = rows.T * reciprocal(scales)
    steps = np.empty(wanted.shape, np.int8)
    steps[0::2] = nearest_steps(wanted[0::2], None)
    steps[1::2] = nearest_steps(wanted[1::2], steps[0::2][: len(wanted) // 2])
    return steps


def nearest_steps(wanted: NDArray[np.float32], partners: NDArray[np.int8] | None) -> NDArray[np.float32]:
    """Rounds to whole steps in bounds: float32. ``partners``: the steps of the neighbours, where they are chosen."""
    taken = np.float32(0) if partners is None else partners.astype(np.float32)
    low, high = np.maximum(-MOST, -_MOST_OF_TWO - taken), np.minimum(MOST, _MOST_OF_TWO - taken)
    steps: NDArray[np.float32] = np.clip(np.rint(wanted), low, high)
    return steps
