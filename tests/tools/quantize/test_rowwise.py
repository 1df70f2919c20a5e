"""Steps of int8 weights: as fine as they can be while no sum of two products leaves 16 bits."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray

from edgelm_tools.quantize.gptq import error_factor, round_to_inputs
from edgelm_tools.quantize.rowwise import MOST, round_rows, row_scales

LARGEST_ACTIVATION = 255
WEIGHTS = arrays.arrays(
    np.float32,
    st.tuples(st.integers(1, 5), st.integers(1, 9)),
    elements=st.floats(-1e6, 1e6, width=32, allow_subnormal=False),
)


def assert_no_sum_overflows(steps: NDArray[np.int8]) -> None:
    """Whatever the activations are: the products of two neighbours fit into 16 bits with a sign."""
    assert steps.dtype == np.int8
    assert np.abs(steps.astype(int)).max() <= MOST
    wide = steps.astype(int)
    pairs = wide[0 : len(wide) // 2 * 2 : 2], wide[1::2]
    most = sum(LARGEST_ACTIVATION * np.maximum(pair, 0) for pair in pairs)
    least = sum(LARGEST_ACTIVATION * np.minimum(pair, 0) for pair in pairs)
    assert np.max(most, initial=0) <= np.iinfo(np.int16).max
    assert np.min(least, initial=0) >= np.iinfo(np.int16).min


@given(WEIGHTS)
def test_no_sum_overflows(weight: NDArray[np.float32]) -> None:
    scales = row_scales(weight)
    steps = round_rows(weight, scales)
    assert_no_sum_overflows(steps)
    # A whole step off at most: half of one by rounding, and half where two neighbours were rounded up together.
    assert (np.abs(steps.T * scales[:, None] - weight) <= scales[:, None] * np.float32(1.01) + 1e-30).all()


@given(WEIGHTS, st.integers(0, 9))
def test_no_sum_overflows_where_errors_are_made_up_for(weight: NDArray[np.float32], seed: int) -> None:
    inputs = np.random.default_rng(seed).normal(size=(20, weight.shape[1])).astype(np.float32)
    assert_no_sum_overflows(round_to_inputs(weight, row_scales(weight), error_factor(inputs.T @ inputs)))


@pytest.mark.parametrize(
    ("row", "largest"),
    [
        ([1.0, 0.0, 0.0], 127),  # a value alone has all the steps
        ([0.0, 0.0, 1.0], 127),
        ([1.0, -1.0, 0.0], 127),  # neighbours that cancel each other, too
        ([1.0, 1.0, 0.0], 64),  # two alike share 128
        ([0.0, 1.0, 1.0], 127),  # these two are no neighbours
    ],
)
def test_steps_are_as_fine_as_can_be(row: list[float], largest: int) -> None:
    weight = np.array([row], np.float32)
    steps = round_rows(weight, row_scales(weight))
    assert np.abs(steps).max() == largest
