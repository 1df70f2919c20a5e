"""Maps: entropies and their laws, choosing heads, plain values."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray

from edgelm.errors import ConfigError
from edgelm.inspection.maps import Attention, AttentionMap

WEIGHTS = arrays.arrays(
    np.float32,
    st.tuples(*(st.integers(1, n) for n in (2, 3, 4, 6))),
    elements=st.floats(0, 1, width=32, allow_subnormal=False),
)


def map_of(weights: NDArray[np.float32]) -> AttentionMap:
    layers, heads, queries, keys = weights.shape
    names = [tuple(f"{kind}{i}" for i in range(count)) for kind, count in (("q", queries), ("k", keys))]
    return AttentionMap("cross", tuple(range(layers)), tuple(range(heads)), *names, weights)


def normalised(weights: NDArray[np.float32]) -> NDArray[np.float32]:
    raised = np.where(weights.sum(axis=-1, keepdims=True) > 0, weights, 1)
    return (raised / raised.sum(axis=-1, keepdims=True)).astype(np.float32)


@given(WEIGHTS)
def test_entropy_is_between_none_and_all_keys_alike(weights: NDArray[np.float32]) -> None:
    entropy = map_of(normalised(weights)).entropy
    assert entropy.shape == weights.shape[:2]
    assert entropy.min() >= 0
    assert entropy.max() <= np.log2(weights.shape[-1]) + 1e-5


@given(WEIGHTS)
def test_entropy_is_the_mean_of_its_rows(weights: NDArray[np.float32]) -> None:
    weights = normalised(weights)
    expected = np.zeros(weights.shape[:2])
    for place in np.ndindex(weights.shape[:3]):
        row = weights[place].astype(np.float64)
        expected[place[:2]] -= sum(p * np.log2(p) for p in row if p) / weights.shape[2]
    np.testing.assert_allclose(map_of(weights).entropy, expected, atol=1e-5)


def test_entropy_of_one_key_and_of_all_alike() -> None:
    weights = np.zeros((1, 2, 3, 8), np.float32)
    weights[0, 0, :, 5] = 1
    weights[0, 1] = 1 / 8
    assert map_of(weights).entropy.tolist() == [[0, 3]]


def test_heads_are_chosen_by_their_numbers() -> None:
    weights = np.random.default_rng(0).random((2, 5, 3, 3), np.float32)
    some = map_of(weights).chosen({4, 1})
    assert some.heads == (1, 4)
    assert np.array_equal(some.weights, weights[:, [1, 4]])
    assert some.chosen([4]).heads == (4,)


@pytest.mark.parametrize(
    ("wanted", "message"),
    [({9}, "there is no head 9; heads are from 0 to 4"), (set(), "no head was chosen; heads are from 0 to 4")],
)
def test_heads_that_are_not_there_are_refused(wanted: set[int], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        map_of(np.ones((1, 5, 1, 1), np.float32)).chosen(wanted)


def test_a_kind_that_is_not_there_is_refused() -> None:
    found = Attention("tiny", 1, "", (map_of(np.ones((1, 1, 1, 1), np.float32)),))
    assert found.of("cross").kind == "cross"
    with pytest.raises(ConfigError, match="no attention of the kind 'encoder' here; there is: cross"):
        found.of("encoder")


@given(WEIGHTS)
def test_plain_values_are_json(weights: NDArray[np.float32]) -> None:
    one = map_of(normalised(weights))
    read = json.loads(json.dumps(Attention("tiny", 3, "x", (one,)).as_dict(), allow_nan=False))
    (found,) = read["maps"]
    assert list(found) == ["kind", "layers", "heads", "queries", "keys", "entropy", "weights"]
    assert np.abs(np.array(found["weights"]) - one.weights).max() < 1e-6
    assert (read["model"], read["prompt_tokens"], read["answer"]) == ("tiny", 3, "x")
