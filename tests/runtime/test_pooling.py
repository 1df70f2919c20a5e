from __future__ import annotations

import numpy as np
import pytest

from edgelm.bundle.manifest_parts import POOLING_MODES
from edgelm.runtime.pooling import pool, to_unit_length

RANDOM = np.random.default_rng(0)
LENGTHS = np.array([5, 1, 3])
HIDDEN = RANDOM.normal(size=(3, 5, 7)).astype(np.float32)
EXPECTED = {
    "mean": [HIDDEN[i, :n].mean(axis=0) for i, n in enumerate(LENGTHS)],
    "cls": [HIDDEN[i, 0] for i in range(3)],
    "last": [HIDDEN[i, n - 1] for i, n in enumerate(LENGTHS)],
    "max": [HIDDEN[i, :n].max(axis=0) for i, n in enumerate(LENGTHS)],
}


@pytest.mark.parametrize("mode", POOLING_MODES)
def test_only_a_row_s_own_tokens_count(mode: str) -> None:
    found = pool(HIDDEN, LENGTHS, mode)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, EXPECTED[mode], rtol=1e-5, atol=1e-6)
    padded = HIDDEN.copy()
    padded[1, 1:] = np.nan
    padded[2, 3:] = np.inf
    np.testing.assert_allclose(pool(padded, LENGTHS, mode), found, rtol=1e-6)


@pytest.mark.parametrize("mode", POOLING_MODES)
def test_the_vectors_are_not_views_of_the_hidden_states(mode: str) -> None:
    assert not np.shares_memory(pool(HIDDEN, LENGTHS, mode), HIDDEN)


def test_unit_length() -> None:
    vectors = np.array([[3, 4], [0, 0]], np.float32)
    np.testing.assert_allclose(to_unit_length(vectors), [[0.6, 0.8], [0, 0]])
