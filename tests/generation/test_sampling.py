from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.chi_square import chi_square, chi_square_limit
from support.logit_vectors import generated_logits, small_logits

from edgelm.config import GenerationConfig
from edgelm.errors import NumericError
from edgelm.generation.default_processors import default_processors, default_warpers
from edgelm.generation.logits_processors import NO_IDS, compose
from edgelm.generation.sampling import draw, make_narrower, make_sampler

DRAWS = 100_000
# The first 12 of seed 7: of all machines, versions of Python and of numpy.
PLAIN_TOKENS = [626, 898, 775, 226, 300, 873, 7, 824, 797, 468, 304, 279]
FILTERED_TOKENS = [565, 898, 737, 221, 262, 868, 19, 797, 767, 423, 262, 262]


def sampling(**settings):
    return GenerationConfig(do_sample=True, **settings)


def floats(*values):
    return np.array(values, np.float32)


def wave(size, scale=1.0):
    """Logits that any machine computes alike: multiples of 1/64."""
    return ((np.arange(size) * 37 % 101 - 50) / 64 * scale).astype(np.float32)


def exact_probabilities(logits, config):
    warped = compose(default_warpers(config))(NO_IDS, logits).astype(np.float64)
    weights = np.exp(warped - warped.max())
    return weights / weights.sum()


def test_the_critical_values_are_those_of_the_tables():
    assert chi_square_limit(10) == pytest.approx(29.588, rel=0.01)
    assert chi_square_limit(100) == pytest.approx(149.449, rel=0.01)


def test_a_sampler_has_the_exact_distribution():
    logits = wave(60, scale=4)
    sample = make_sampler(sampling(seed=2024))
    counts = np.bincount([sample(logits) for _ in range(DRAWS)], minlength=logits.size)
    statistic, freedom = chi_square(counts, exact_probabilities(logits, sampling()))
    assert statistic < chi_square_limit(freedom)


@pytest.mark.parametrize(
    "settings",
    [
        {"temperature": 0.7, "top_k": 20, "top_p": 0.9, "min_p": 0.05},
        {"temperature": 1.7, "top_p": 0.8},
        {"min_p": 0.2, "top_k": 7},
        {"temperature": 0.3},
        {"temperature": 4.0},
        {"top_k": 2},
        {"top_k": 13},
        {"top_p": 0.5},
        {"min_p": 0.02},
        {"typical_p": 0.6},
        {"typical_p": 0.9, "temperature": 1.4, "top_k": 40},
        {"epsilon_cutoff": 0.01},
        {"eta_cutoff": 0.05, "temperature": 2.0},
        {"top_n_sigma": 0.8},
        {"top_n_sigma": 1.5, "temperature": 3.0, "top_p": 0.95},
        {"top_k": 50, "top_p": 0.97, "min_p": 0.01, "typical_p": 0.95, "epsilon_cutoff": 1e-3, "eta_cutoff": 1e-3},
    ],
    ids=str,
)
def test_draws_from_what_is_kept_have_the_exact_distribution(settings):
    config = sampling(**settings)
    logits = wave(60, scale=4)
    tokens, kept = make_narrower(config)(logits)
    uniforms = np.random.default_rng(11).random(DRAWS)
    drawn = np.array([draw(kept, uniform) for uniform in uniforms])
    counts = np.bincount(drawn if tokens is None else tokens[drawn], minlength=logits.size)
    probabilities = exact_probabilities(logits, config)
    assert (counts[probabilities == 0] == 0).all()
    statistic, freedom = chi_square(counts, probabilities)
    assert statistic < chi_square_limit(freedom)


def test_a_sampler_draws_from_what_is_kept_by_the_raw_bits_of_its_seed():
    config = sampling(seed=99, temperature=0.7, top_k=20, top_p=0.9, min_p=0.05)
    logits = wave(60, scale=4)
    tokens, kept = make_narrower(config)(logits)
    sample = make_sampler(config)
    for bits in np.random.PCG64(99).random_raw(200).tolist():
        assert sample(logits) == tokens[draw(kept, (bits >> 11) / 2**53)]


def test_draws_over_many_blocks_have_the_exact_distribution():
    logits = wave(10_000, scale=6)
    uniforms = np.random.default_rng(5).random(20_000)
    counts = np.bincount([draw(logits, uniform) for uniform in uniforms], minlength=logits.size)
    classes = (np.arange(logits.size) * 37 % 101) + 101 * (np.arange(logits.size) // 2500)
    probabilities = np.bincount(classes, exact_probabilities(logits, sampling()))
    statistic, freedom = chi_square(np.bincount(classes, counts), probabilities)
    assert statistic < chi_square_limit(freedom)


def test_a_biased_draw_would_be_noticed():
    probabilities = np.full(60, 1 / 60)
    biased = probabilities + np.where(np.arange(60) % 2, 0.0006, -0.0006)
    counts = np.random.default_rng(0).multinomial(DRAWS, biased)
    statistic, freedom = chi_square(counts, probabilities)
    assert statistic > chi_square_limit(freedom)


@given(small_logits() | generated_logits(most=20_000), st.floats(0.0, 1.0, exclude_max=True))
@settings(max_examples=300, deadline=None)
def test_draw_inverts_the_cumulative_distribution(logits, uniform):
    index = draw(logits, uniform)
    probabilities = exact_probabilities(logits, sampling())
    assert probabilities[index] > 0
    up_to = probabilities[: index + 1].sum()
    assert up_to - probabilities[index] - 1e-6 <= uniform <= up_to + 1e-6


@given(small_logits() | generated_logits(most=20_000))
@settings(deadline=None)
def test_the_ends_of_the_range_draw_the_first_and_the_last_that_can_be_drawn(logits):
    possible = np.flatnonzero(np.exp(logits.astype(np.float64) - float(logits.max())) > 1e-12)
    first, last = draw(logits, 0.0), draw(logits, 1.0 - 2.0**-53)
    assert first <= possible[0]
    assert last >= possible[-1]
    assert np.isfinite(logits[[first, last]]).all()


def test_greedy_takes_the_first_of_equals():
    assert make_sampler(GenerationConfig())(floats(1, 3, 2, 3)) == 1


@given(small_logits())
@settings(deadline=None)
def test_greedy_takes_a_largest(logits):
    token = make_sampler(GenerationConfig())(logits)
    assert token == int(np.flatnonzero(logits == logits.max())[0])


def test_a_seed_gives_the_same_tokens_on_every_machine():
    plain, filtered = make_sampler(sampling(seed=7)), make_sampler(sampling(seed=7, top_k=40, top_p=0.9, temperature=2))
    logits = wave(1000, scale=2)
    assert [plain(logits) for _ in range(12)] == PLAIN_TOKENS
    assert [filtered(logits) for _ in range(12)] == FILTERED_TOKENS


@given(st.integers(0, 2**200))
@settings(max_examples=30)
def test_the_same_seed_gives_the_same_tokens(seed):
    logits = wave(500)
    one, other = make_sampler(sampling(seed=seed)), make_sampler(sampling(seed=seed))
    assert [one(logits) for _ in range(20)] == [other(logits) for _ in range(20)]


def test_other_seeds_and_no_seed_give_other_tokens():
    logits = np.zeros(1000, np.float32)
    samplers = [make_sampler(sampling(seed=seed)) for seed in (0, 1, None, None)]
    sequences = {tuple(sample(logits) for _ in range(10)) for sample in samplers}
    assert len(sequences) == 4


def test_a_step_takes_one_number_whatever_it_keeps():
    certain = floats(0, 100, 0, 0)
    logits = wave(1000)
    one, other = make_sampler(sampling(seed=3, top_k=900)), make_sampler(sampling(seed=3, top_k=900))
    one(certain)
    other(logits)
    assert [one(logits) for _ in range(10)] == [other(logits) for _ in range(10)]


@pytest.mark.parametrize("config", [GenerationConfig(), sampling(seed=1), sampling(seed=1, top_k=3, top_p=0.5)])
@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (np.nan, r"step 3: the logit of token 700 is nan; logits must be finite or -inf"),
        (np.inf, r"step 3: the logit of token 700 is inf; logits must be finite or -inf"),
    ],
)
def test_nan_and_infinity_name_the_step(config, bad, message):
    sample = make_sampler(config)
    logits = wave(1000)
    sample(logits)
    sample(logits)
    logits[700] = bad
    with pytest.raises(NumericError, match=message):
        sample(logits)


@pytest.mark.parametrize("config", [GenerationConfig(), sampling(seed=1, min_p=0.5)])
def test_logits_that_allow_nothing_name_the_step(config):
    with pytest.raises(NumericError, match=r"step 1: no token is allowed, all 9 logits are -inf"):
        make_sampler(config)(np.full(9, -np.inf, np.float32))


@pytest.mark.parametrize(
    "config", [GenerationConfig(), sampling(seed=1, temperature=0.5, top_k=3, top_p=0.9, min_p=0.1)]
)
def test_samplers_leave_the_logits_alone(config):
    logits = wave(1000)
    make_sampler(config)(logits)
    np.testing.assert_array_equal(logits, wave(1000))


@given(small_logits(), st.floats(1e-30, 1e30), st.floats(0.01, 1.0))
@settings(deadline=None)
def test_no_setting_of_the_range_breaks_a_draw(logits, temperature, top_p):
    token = make_sampler(sampling(seed=0, temperature=temperature, top_p=top_p))(logits)
    assert np.isfinite(logits[token])


@pytest.mark.parametrize(
    "values",
    [
        *({name: 1e30} for name in ("temperature", "presence_penalty", "frequency_penalty", "guidance_scale")),
        *({name: -1e30} for name in ("presence_penalty", "frequency_penalty")),
        *({name: bound} for name in ("repetition_penalty", "encoder_repetition_penalty") for bound in (1e-30, 1e30)),
    ],
    ids=str,
)
def test_tokens_that_may_not_come_do_not_at_any_bound_of_the_settings(values):
    config = sampling(suppress_tokens=(0, 5), **values)
    process = compose(default_processors(config, prompt_length=1, limit=9, source=np.array([1, 5]), vocab_size=8))
    logits = process(np.array([1, 2, 5, 0]), np.linspace(-30, 30, 8, dtype=np.float32))
    assert not np.isnan(logits).any()
    for seed in range(50):
        assert make_sampler(config.updated(seed=seed))(logits) not in (0, 5)
