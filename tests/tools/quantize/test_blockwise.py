"""Blocks of int8 and int4: error bounds, exact carrying of a checkpoint's integers, and how they are packed."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from edgelm_tools.checkpoint.base import BlockQuantized
from edgelm_tools.quantize.blockwise import (
    carry_int4,
    carry_int8,
    dequantize,
    quantize_int4,
    quantize_int8,
    reciprocal,
)

Floats = NDArray[np.float32]
SIZES = st.sampled_from([16, 32, 64])
VALUES = st.floats(-(2.0**30), 2.0**30, width=32) | st.sampled_from([0.0, 1e-45, 1e-38, -1e-40, 1.0, -1.0])
MATRICES = arrays(np.float32, st.tuples(st.integers(1, 4), st.integers(1, 100)), elements=VALUES)


def largest_of_blocks(rows: Floats, block_size: int) -> Floats:
    """The largest magnitude of each value's block, in the shape of ``rows``."""
    starts = range(0, rows.shape[1], block_size)
    return np.concatenate(
        [
            np.broadcast_to(np.abs(b).max(axis=1, keepdims=True), b.shape)
            for s in starts
            for b in [rows[:, s : s + block_size]]
        ],
        axis=1,
    )


@given(rows=MATRICES, block_size=SIZES)
@settings(deadline=None)
def test_int8_is_off_by_half_a_step_at_most(rows: Floats, block_size: int) -> None:
    blocks = quantize_int8(rows, block_size)
    count = -(-rows.shape[1] // block_size)
    assert blocks.data.shape == (len(rows), count, block_size)
    assert blocks.scales.shape == (len(rows), count)
    assert blocks.zero_points is None
    steps = largest_of_blocks(rows, block_size).astype(np.float64) / 127
    error = np.abs(dequantize(blocks, rows.shape[1]).astype(np.float64) - rows)
    # Blocks of the very smallest numbers become zeros.
    assert (error <= np.maximum(steps * 0.50001, 1e-35)).all()


@given(rows=MATRICES, block_size=SIZES)
@settings(deadline=None)
def test_int4_is_no_worse_than_the_whole_range_in_fifteen_steps(rows: Floats, block_size: int) -> None:
    blocks = quantize_int4(rows, block_size)
    count = -(-rows.shape[1] // block_size)
    assert blocks.data.shape == (len(rows), count, block_size // 2)
    assert blocks.zero_points is not None
    assert blocks.zero_points.shape == (len(rows), -(-count // 2))
    error = np.square(dequantize(blocks, rows.shape[1]).astype(np.float64) - rows)
    # One step off at each end of the range, half a step between: no block's mean is above that of a whole step.
    steps = 2 * largest_of_blocks(rows, block_size).astype(np.float64) / 15
    assert (error.sum(axis=1) <= np.square(np.maximum(steps, 1e-35)).sum(axis=1) * 1.0001).all()


def test_int4_tries_smaller_ranges_for_less_error() -> None:
    rows = np.random.default_rng(0).standard_t(4, (50, 32)).astype(np.float32)
    low, high = np.minimum(rows.min(axis=1, keepdims=True), 0), np.maximum(rows.max(axis=1, keepdims=True), 0)
    scale = (high - low) / 15
    zero = np.rint(-low / scale)
    plain = (np.clip(np.rint(rows / scale) + zero, 0, 15) - zero) * scale
    ours = dequantize(quantize_int4(rows, 32), 32)
    gain = np.square(rows - plain).sum(axis=1) - np.square(rows - ours).sum(axis=1)
    assert (gain > -1e-4).all()
    assert gain.sum() > 0.02 * np.square(rows - plain).sum()


@pytest.mark.parametrize("quantize", [quantize_int8, quantize_int4])
def test_zeros_stay_zeros_and_padding_is_zero(quantize: object) -> None:
    rows = np.random.default_rng(0).normal(size=(3, 40)).astype(np.float32)
    rows[1] = 0
    rows[:, :32] = 0
    blocks = quantize(rows, 32)  # type: ignore[operator]
    values = dequantize(blocks, 64)
    assert not values[1].any()
    assert not values[:, :32].any()
    assert not values[:, 40:].any()
    assert np.isfinite(blocks.scales).all()


@given(rows=MATRICES)
@settings(deadline=None)
def test_int8_of_int8_is_the_same(rows: Floats) -> None:
    once = dequantize(quantize_int8(rows, 32), rows.shape[1])
    twice = dequantize(quantize_int8(once, 32), rows.shape[1])
    np.testing.assert_allclose(twice, once, rtol=1e-5, atol=1e-35)


def checkpoint_blocks(bits: int, rows: int = 5, columns: int = 96) -> BlockQuantized:
    random = np.random.default_rng(bits)
    least, most = (-127, 127) if bits == 8 else (-8, 7)
    values = random.integers(least, most, (rows, columns), endpoint=True).astype(np.int8)
    values[0, :16] = np.resize([least, most, 0], 16)
    return BlockQuantized(values, random.uniform(-2, 2, (rows, columns // 32)).astype(np.float32), 32, bits)


@pytest.mark.parametrize(("bits", "carry"), [(8, carry_int8), (4, carry_int4)])
def test_a_checkpoint_s_integers_are_carried_exactly(bits: int, carry: object) -> None:
    part = checkpoint_blocks(bits)
    blocks = carry(part)  # type: ignore[operator]
    assert blocks.bits == bits
    expected = part.values * np.repeat(part.scales, 32, axis=1)
    np.testing.assert_array_equal(dequantize(blocks, 96), expected)


def test_two_int4_values_share_a_byte_the_lower_half_first() -> None:
    values = np.tile(np.arange(-8, 8, dtype=np.int8), 2)[None]
    blocks = carry_int4(BlockQuantized(values, np.ones((1, 1), np.float32), 32, 4))
    assert blocks.data[0, 0, :8].tolist() == [0x10, 0x32, 0x54, 0x76, 0x98, 0xBA, 0xDC, 0xFE]


@given(st.data())
@settings(deadline=None, max_examples=30)
def test_zero_points_are_packed_per_row_with_a_pad(data: st.DataObject) -> None:
    count = data.draw(st.integers(1, 5))
    # Blocks of one sign: the zero point is at one of the ends.
    signs = data.draw(arrays(np.int8, (2, count), elements=st.sampled_from([-1, 1])))
    rows = np.repeat(signs, 16, axis=1).astype(np.float32) * np.tile(np.linspace(0, 1, 16), count).astype(np.float32)
    packed = quantize_int4(rows, 16).zero_points
    assert packed is not None
    nibbles = np.stack([packed & 15, packed >> 4], axis=-1).reshape(2, -1)
    np.testing.assert_array_equal(nibbles[:, :count], np.where(signs < 0, 15, 0))
    assert not nibbles[:, count:].any()


@given(arrays(np.float32, 8, elements=st.floats(0, 2.0**100, width=32)))
@settings(deadline=None)
def test_reciprocals_are_finite(scales: Floats) -> None:
    result = reciprocal(scales)
    assert np.isfinite(result).all()
    large = scales > 1e-37
    np.testing.assert_allclose(result[large] * scales[large], 1, rtol=1e-6)
    assert (result[scales == 0] == 0).all()
