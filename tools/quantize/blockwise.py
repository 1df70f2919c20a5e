"""Block-wise round-to-nearest: the numbers behind int8 and int4 weights, as pure functions over arrays."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgelm_tools.checkpoint.base import BlockQuantized

ZERO_POINT = 128
MOST_INT4 = 15
# How much of a block's range int4 covers, as is tried.
_CLIPS = (1.0, 0.95, 0.9, 0.85, 0.8)
_TINY = np.finfo(np.float32).tiny


@dataclass(frozen=True, slots=True)
class Blocks:
    """Rows of a quantized matrix as the operators MatMulNBits and GatherBlockQuantized store them.

    ``data``: (N, blocks, block_size * bits / 8) uint8, two values a byte for 4 bits, the lower nibble first;
    ``scales``: (N, blocks) float32; ``zero_points``: None (the middle of the range), or for 4 bits
    (N, ceil(blocks / 2)) uint8, packed likewise. ``value = (stored - zero_point) * scale``.
    """

    data: NDArray[np.uint8]
    scales: NDArray[np.float32]
    bits: int
    zero_points: NDArray[np.uint8] | None = None


def quantize_int8(rows: NDArray[np.float32], block_size: int) -> Blocks:
    """Symmetric int8 in blocks along the input dimension; the last block of a row is padded with zeros.

    rows: (N, K) float32. The largest magnitude of a block maps to 127.
    """
    blocks = _blocks(rows, block_size)
    scales = np.abs(blocks).max(axis=2) / np.float32(127)
    steps = np.rint(blocks * reciprocal(scales)[:, :, None])
    return Blocks((steps + ZERO_POINT).astype(np.uint8), scales, 8)


def carry_int8(part: BlockQuantized) -> Blocks:
    """The checkpoint's own int8 blocks, unchanged but for the operators' offset of 128."""
    shape = (len(part.values), part.values.shape[1] // part.block_size, part.block_size)
    return Blocks((part.values.view(np.uint8) ^ np.uint8(ZERO_POINT)).reshape(shape), part.scales, 8)


def carry_int4(part: BlockQuantized) -> Blocks:
    """The checkpoint's own symmetric 4-bit blocks, packed two to a byte."""
    shape = (len(part.values), part.values.shape[1] // part.block_size, part.block_size)
    return Blocks(_pack((part.values + 8).astype(np.uint8).reshape(shape)), part.scales, 4)


def quantize_int4(rows: NDArray[np.float32], block_size: int) -> Blocks:
    """Asymmetric int4 in blocks: for each block the scale and zero point of least squared error.

    rows: (N, K) float32. Several clippings of the block's range are tried; round-to-nearest decides within each.
    """
    blocks = _blocks(rows, block_size)
    scales, zero = int4_grid(blocks)
    steps = np.rint(blocks * reciprocal(scales)[:, :, None]) + zero[:, :, None]
    return packed_int4(np.clip(steps, 0, MOST_INT4).astype(np.uint8), scales, zero)


def int4_grid(
    blocks: NDArray[np.float32], importance: NDArray[np.float32] | None = None
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The scale and zero point of least squared error for each of some blocks: (…,) float32 each, whole zero points.

    blocks: (…, block_size); importance: (block_size,), what an error costs in each place.
    """
    low = np.minimum(blocks.min(axis=-1), 0)
    high = np.maximum(blocks.max(axis=-1), 0)
    best_error = np.full(low.shape, np.inf, np.float32)
    best_scale = np.ones_like(low)
    best_zero = np.zeros_like(low)
    for clip in _CLIPS:
        scale = (high - low) * np.float32(clip / MOST_INT4)
        zero = np.clip(np.rint(-low * np.float32(clip) * reciprocal(scale)), 0, MOST_INT4)
        squares = np.square(blocks - _round_trip(blocks, scale, zero))
        error = squares.sum(axis=-1) if importance is None else squares @ importance
        better = error < best_error
        best_error = np.where(better, error, best_error)
        best_scale, best_zero = np.where(better, scale, best_scale), np.where(better, zero, best_zero)
    return best_scale, best_zero


def packed_int4(steps: NDArray[np.uint8], scales: NDArray[np.float32], zero: NDArray[np.float32]) -> Blocks:
    """Blocks of steps 0 … 15 (N, blocks, block_size), with their scales and zero points (N, blocks)."""
    return Blocks(_pack(steps), scales, 4, _pack_zero_points(zero.astype(np.uint8)))


def dequantize(blocks: Blocks, columns: int) -> NDArray[np.float32]:
    """The values that the operators compute with: (N, columns) float32."""
    steps = (blocks.data if blocks.bits == 8 else _unpack(blocks.data)).astype(np.float32)
    count = blocks.scales.shape[1]
    if blocks.zero_points is None:
        zero = np.full((len(steps), count), 1 << (blocks.bits - 1), np.float32)
    else:
        zero = _unpack(blocks.zero_points).astype(np.float32)[:, :count]
    steps -= zero[:, :, None]
    values: NDArray[np.float32] = steps * blocks.scales[:, :, None]
    return values.reshape(len(values), -1)[:, :columns]


def _blocks(rows: NDArray[np.float32], block_size: int) -> NDArray[np.float32]:
    padding = -rows.shape[1] % block_size
    padded = np.pad(rows, ((0, 0), (0, padding))) if padding else rows
    return padded.reshape(len(rows), -1, block_size)


def reciprocal(scales: NDArray[np.float32]) -> NDArray[np.float32]:
    """1 / scale; 0 for a scale of 0, and for one so small that float32 does not hold its reciprocal."""
    return np.divide(np.float32(1), scales, out=np.zeros_like(scales), where=scales > _TINY)


def _round_trip(
    blocks: NDArray[np.float32], scale: NDArray[np.float32], zero: NDArray[np.float32]
) -> NDArray[np.float32]:
    steps = np.rint(blocks * reciprocal(scale)[..., None]) + zero[..., None]
    values: NDArray[np.float32] = (np.clip(steps, 0, MOST_INT4) - zero[..., None]) * scale[..., None]
    return values


def _pack(nibbles: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return (nibbles[..., 0::2] | (nibbles[..., 1::2] << 4)).astype(np.uint8)


def _unpack(packed: NDArray[np.uint8]) -> NDArray[np.uint8]:
    nibbles = np.stack([packed & 15, packed >> 4], axis=-1)
    return nibbles.reshape(*packed.shape[:-1], -1)


def _pack_zero_points(zero: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return _pack(np.pad(zero, ((0, 0), (0, zero.shape[1] % 2))))
