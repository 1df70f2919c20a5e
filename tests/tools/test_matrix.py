"""Matrices that are read part by part: whole, stacked, split, in chunks, of floats and of blocks of integers."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from support.memory_checkpoint import MemoryCheckpoint

from edgelm.errors import ModelError
from edgelm_tools.checkpoint.base import BlockQuantized
from edgelm_tools.matrix import Matrix, read_tensor

Floats = NDArray[np.float32]
COLUMNS = 64


def floats(rows: int, seed: int = 0) -> Floats:
    return np.random.default_rng(seed).normal(size=(rows, COLUMNS)).astype(np.float32)


def blocks(rows: int, seed: int = 0) -> BlockQuantized:
    random = np.random.default_rng(seed)
    values = random.integers(-127, 128, (rows, COLUMNS)).astype(np.int8)
    return BlockQuantized(values, random.uniform(0.01, 1, (rows, COLUMNS // 32)).astype(np.float32), 32, 8)


CHECKPOINT = MemoryCheckpoint({"a": floats(5, 1), "b": blocks(7, 2), "c": floats(1, 3)})
WHOLE = np.concatenate([CHECKPOINT.tensor(name) for name in "abc"])


def stack() -> Matrix:
    return Matrix.stacked([Matrix.of(CHECKPOINT, name) for name in "abc"])


def joined(matrix: Matrix, most_values: int = 1 << 24) -> Floats:
    return np.concatenate(list(matrix.float_parts(most_values)))


def test_a_stack_keeps_integers_as_integers() -> None:
    matrix = stack()
    assert (matrix.rows, matrix.columns) == (13, COLUMNS)
    assert [isinstance(part, BlockQuantized) for part in matrix.parts()] == [False, True, False]


@given(most_values=st.integers(1, 20 * COLUMNS))
@settings(deadline=None)
def test_chunks_hold_all_rows_in_order_and_no_more_values_than_asked_for(most_values: int) -> None:
    parts = list(stack().float_parts(most_values))
    assert max(part.size for part in parts) <= max(most_values, COLUMNS)
    np.testing.assert_array_equal(np.concatenate(parts), WHOLE)


@given(count=st.integers(1, 30))
@settings(deadline=None)
def test_pieces_together_are_the_whole(count: int) -> None:
    pieces = stack().split(count)
    assert len(pieces) == min(count, 13)
    assert max(piece.rows for piece in pieces) - min(piece.rows for piece in pieces) <= 1
    for piece in pieces:
        assert joined(piece).shape == (piece.rows, COLUMNS)
    np.testing.assert_array_equal(np.concatenate([joined(piece) for piece in pieces]), WHOLE)


def test_a_matrix_is_read_when_it_is_written_and_anew_each_time() -> None:
    checkpoint = MemoryCheckpoint({"a": floats(5)})
    matrix = Matrix.of(checkpoint, "a")
    assert checkpoint.read == []
    list(matrix.parts()), list(matrix.parts())
    assert checkpoint.read == ["a", "a"]


def test_a_mapped_matrix_changes_its_rows_as_they_are_read() -> None:
    matrix = stack().mapped(lambda rows: 2 * rows)
    assert (matrix.rows, matrix.columns) == (13, COLUMNS)
    assert [len(part) for part in matrix.parts()] == [5, 7, 1]
    np.testing.assert_array_equal(joined(matrix), 2 * WHOLE)
    np.testing.assert_array_equal(np.concatenate([joined(piece) for piece in matrix.split(3)]), 2 * WHOLE)


def test_a_transform_sees_floats_and_may_change_the_shape() -> None:
    matrix = Matrix.of(CHECKPOINT, "b", lambda rows: rows[:, :3].T.copy(), shape=(3, 7))
    assert (matrix.rows, matrix.columns) == (3, 7)
    np.testing.assert_array_equal(joined(matrix), CHECKPOINT.tensor("b")[:, :3].T)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_no_numbers_are_refused(value: float) -> None:
    spoilt, scales = floats(4), blocks(4)
    spoilt[2, 5] = scales.scales[3, 1] = value
    checkpoint = MemoryCheckpoint({"floats": spoilt, "blocks": scales, "none": np.zeros(0, np.float32)})
    for name in ("floats", "blocks"):
        with pytest.raises(ModelError, match=f"tensor '{name}' has values that are infinite or no numbers"):
            list(Matrix.of(checkpoint, name).parts())
    assert read_tensor(checkpoint, "none").size == 0
