"""The fast filters against the processors they stand for: the same kept tokens, always."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.logit_vectors import generated_logits, small_logits

from edgelm.config import GenerationConfig
from edgelm.generation.default_processors import default_warpers
from edgelm.generation.distributions import softmax
from edgelm.generation.logits_processors import NO_IDS, compose
from edgelm.generation.sampling import make_narrower

configs = st.builds(
    GenerationConfig,
    do_sample=st.just(True),
    temperature=st.sampled_from([1.0, 0.7, 0.1, 1.5, 1e-6, 1e6]) | st.floats(0.05, 5.0),
    top_k=st.sampled_from([0, 0, 1, 2, 5, 50, 1500, 10**6]),
    top_p=st.sampled_from([1.0, 0.9, 0.5, 0.1, 0.3, 0.95, 1e-6, 0.999999, 1 - 1e-9, 1 - 1e-16])
    | st.floats(0.0, 1.0, exclude_min=True),
    min_p=st.sampled_from([0.0, 0.05, 0.5, 1.0, 1e-4, 1e-40]) | st.floats(0.0, 1.0),
    typical_p=st.sampled_from([1.0, 1.0, 0.9, 0.2]),
    epsilon_cutoff=st.sampled_from([0.0, 0.0, 1e-3, 0.1]),
    eta_cutoff=st.sampled_from([0.0, 0.0, 1e-3, 0.1]),
    top_n_sigma=st.sampled_from([0.0, 0.0, 1.0, 2.5]),
)


def assert_same_as_the_warpers(logits, config):
    before = logits.copy()
    tokens, kept = make_narrower(config)(logits)
    np.testing.assert_array_equal(logits, before)
    warped = compose(default_warpers(config))(NO_IDS, logits)
    tokens = np.arange(logits.size) if tokens is None else tokens
    assert (np.diff(tokens) > 0).all()
    np.testing.assert_array_equal(tokens[np.isfinite(kept)], np.flatnonzero(np.isfinite(warped)))
    np.testing.assert_array_equal(kept, warped[tokens])
    np.testing.assert_allclose(softmax(kept), softmax(warped)[tokens], atol=1e-6)


def among_removed(logits):
    """The same logits in a vocabulary large enough for the search."""
    return np.concatenate([logits, np.full(1100, -np.inf, np.float32)])


@given(small_logits(), configs)
@settings(max_examples=500, deadline=None)
def test_few_possible_tokens(logits, config):
    assert_same_as_the_warpers(among_removed(logits), config)


@given(small_logits(), configs)
@settings(max_examples=200, deadline=None)
def test_small_vocabularies(logits, config):
    assert_same_as_the_warpers(logits, config)


@given(generated_logits(), configs)
@settings(max_examples=500, deadline=None)
def test_middling_vocabularies(logits, config):
    assert_same_as_the_warpers(logits, config)


@given(generated_logits(least=8000, most=60_000), configs)
@settings(max_examples=150, deadline=None)
def test_large_vocabularies(logits, config):
    assert_same_as_the_warpers(logits, config)


@pytest.mark.parametrize("size", [2, 3, 5, 10, 20, 50, 100, 128, 10_000])
@pytest.mark.parametrize("top_p", [0.05, 0.1, 0.25, 0.3, 0.5, 0.7, 0.75, 0.8, 0.9, 0.95, 0.99])
def test_equal_tokens_whose_sums_fall_on_the_edge(size, top_p):
    config = GenerationConfig(do_sample=True, top_p=top_p)
    assert_same_as_the_warpers(np.zeros(size, np.float32), config)
    assert_same_as_the_warpers(among_removed(np.zeros(size, np.float32)), config)


@pytest.mark.parametrize("size", [10, 20_000])
@pytest.mark.parametrize("min_p", [1.0, 0.5, float(np.exp(np.float32(-2.0)))])
def test_ratios_that_fall_on_the_edge_of_min_p(size, min_p):
    logits = np.full(size, np.log(np.float32(0.5)), np.float32)
    logits[::3], logits[1::3] = 0.0, -2.0
    assert_same_as_the_warpers(logits, GenerationConfig(do_sample=True, min_p=min_p))


MODEL_LIKE = ("normal", "flat", "tied", "zipf")


@given(generated_logits(least=1100, most=30_000, masked=False, kinds=MODEL_LIKE), st.floats(0.001, 0.6), st.integers())
@settings(max_examples=300, deadline=None)
def test_top_p_on_the_edge_as_float32_rounds_it(logits, share, one_off):
    """The limit is exactly one of the cumulative probabilities, or the number next to it."""
    mass_up_to = np.cumsum(softmax(np.sort(logits)), dtype=np.float64).astype(np.float32)
    limit = mass_up_to[np.searchsorted(mass_up_to, np.float32(share))]
    limit = (limit, np.nextafter(limit, np.float32(0)), np.nextafter(limit, np.float32(1)))[one_off % 3]
    assert_same_as_the_warpers(logits, GenerationConfig(do_sample=True, top_p=1.0 - min(float(limit), 0.99)))


@given(generated_logits(least=1100, most=30_000, masked=False, kinds=MODEL_LIKE), st.integers(0, 1000), st.integers())
@settings(max_examples=300, deadline=None)
def test_min_p_on_the_edge_as_float32_rounds_it(logits, rank, one_off):
    """The limit is exactly the ratio of one token, or a number next to it."""
    probabilities = np.sort(softmax(logits))[::-1]
    ratio = probabilities[rank] / probabilities[0]
    ratio = (ratio, np.nextafter(ratio, np.float32(0)), min(np.nextafter(ratio, np.float32(2)), 1.0))[one_off % 3]
    assert_same_as_the_warpers(logits, GenerationConfig(do_sample=True, min_p=float(ratio)))


def test_a_large_vocabulary_with_few_allowed_tokens():
    logits = np.full(100_000, -np.inf, np.float32)
    logits[[5, 70_000, 99_999]] = 1.0, 2.0, 3.0
    for top_k, top_p, min_p in [(50, 1.0, 0.0), (0, 0.9, 0.0), (0, 1.0, 0.2), (50, 0.9, 0.2)]:
        config = GenerationConfig(do_sample=True, top_k=top_k, top_p=top_p, min_p=min_p)
        assert_same_as_the_warpers(logits, config)
