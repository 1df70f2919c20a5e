from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgelm.tasks.probabilities import softmax

ROW = st.lists(st.floats(-80, 80, width=32), min_size=3, max_size=3)


@given(st.lists(ROW, min_size=1, max_size=4), st.floats(-1000, 1000, width=32))
def test_rows_are_probabilities_and_only_differences_count(rows: list[list[float]], shift: float) -> None:
    found = softmax(np.array(rows, np.float32))
    assert found.dtype == np.float32
    for row, probabilities in zip(rows, found, strict=True):
        total = math.fsum(math.exp(value) for value in row)
        assert probabilities.tolist() == pytest.approx([math.exp(value) / total for value in row], rel=1e-4)
    shifted = softmax(np.array(rows, np.float32) + np.float32(shift))
    np.testing.assert_allclose(shifted, found, rtol=1e-2, atol=1e-6)


def test_large_logits_do_not_overflow() -> None:
    assert softmax(np.array([3e38, 0], np.float32)).tolist() == [1, 0]
