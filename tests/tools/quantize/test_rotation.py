"""Rotations: orthogonal, the same everywhere, and spreading outliers."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgelm_tools.quantize.rotation import hadamard, largest_hadamard, rotation_matrix


@pytest.mark.parametrize("size", [1, 2, 8, 128])
def test_hadamard_matrices_are_symmetric_and_orthogonal(size: int) -> None:
    matrix = hadamard(size)
    assert matrix.dtype == np.float32
    np.testing.assert_array_equal(matrix, matrix.T)
    np.testing.assert_allclose(matrix @ matrix, np.eye(size), atol=1e-6)
    np.testing.assert_allclose(np.abs(matrix), size**-0.5, rtol=1e-6)


@pytest.mark.parametrize("size", [3, 12, 100])
def test_other_sizes_have_no_hadamard_matrix_of_this_kind(size: int) -> None:
    with pytest.raises(ValueError, match=f"not {size}"):
        hadamard(size)


@given(columns=st.integers(1, 5000), most=st.sampled_from([1, 2, 32, 128]))
@settings(deadline=None)
def test_the_largest_hadamard_size_divides_the_columns(columns: int, most: int) -> None:
    size = largest_hadamard(columns, most)
    assert size <= most
    assert columns % size == 0
    assert size.bit_count() == 1
    assert size == most or columns % (2 * size)


@given(size=st.integers(1, 130), seed=st.integers(0, 2**63))
@settings(deadline=None, max_examples=40)
def test_rotations_are_orthogonal(size: int, seed: int) -> None:
    matrix = rotation_matrix(size, seed)
    assert matrix.shape == (size, size)
    np.testing.assert_allclose(matrix @ matrix.T, np.eye(size), atol=5e-7)


PINNED = [
    (12, 1, [-0.24106525457462313, -0.3872388950967203, 0.20477690582959582], 0.14691059680310312),
    (72, 1, [0.0050011751670470716, 0.06899143354812927, 0.021984272005091742], 0.09260788667899263),
    (72, 2, [0.028374568833112037, -0.10790264951875432, -0.0940685306060129], -0.20387409872508516),
    (5, 2, [0.38030278054875644, -0.2237412566270645, -0.7226774793340963], -0.16202570858630583),
]


@pytest.mark.parametrize(("size", "seed", "first", "last"), PINNED)
def test_rotations_are_the_same_on_every_machine(size: int, seed: int, first: list[float], last: float) -> None:
    matrix = rotation_matrix(size, seed)
    np.testing.assert_allclose(matrix[0, :3], first, rtol=1e-9)
    np.testing.assert_allclose(matrix[-1, -1], last, rtol=1e-9)


def test_an_outlier_is_shared_by_all_channels() -> None:
    row = np.zeros(72)
    row[5] = 100.0
    assert np.abs(row @ rotation_matrix(72, 1)).max() < 40
