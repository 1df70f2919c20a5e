from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.logit_vectors import generated_logits, small_logits
from support.processors import built_in

from edgelm.config import GenerationConfig
from edgelm.errors import ConfigError
from edgelm.generation.default_processors import default_warpers
from edgelm.generation.distributions import softmax
from edgelm.generation.logits_processors import (
    NO_IDS,
    MinNewTokens,
    MinP,
    RepetitionPenalty,
    Temperature,
    TopK,
    TopP,
    compose,
)

any_logits = small_logits() | generated_logits(least=1, most=300)


def floats(*values):
    return np.array(values, np.float32)


def ids(*values):
    return np.array(values, np.int64)


def kept(logits):
    return np.flatnonzero(np.isfinite(logits)).tolist()


def test_repetition_penalty_divides_positive_and_multiplies_negative_once_a_token():
    penalized = RepetitionPenalty(2.0)(ids(0, 1, 1, 2), floats(4, -4, 0, 4))
    assert penalized.tolist() == [2, -8, 0, 4]


@given(any_logits, st.data(), st.floats(0.5, 4.0))
@settings(deadline=None)
def test_repetition_penalty_ignores_order_and_repeats_and_leaves_the_rest(logits, data, penalty):
    history = np.array(data.draw(st.lists(st.integers(0, logits.size - 1), max_size=20)), np.int64)
    penalized = RepetitionPenalty(penalty)(history, logits)
    again = RepetitionPenalty(penalty)(np.concatenate([history, history[::-1]]), logits)
    np.testing.assert_array_equal(penalized, again)
    unseen = np.setdiff1d(np.arange(logits.size), history)
    np.testing.assert_array_equal(penalized[unseen], logits[unseen])
    if penalty >= 1:
        assert (penalized <= logits).all()


def test_repetition_penalty_above_float32_makes_no_warning():
    assert RepetitionPenalty(1e-30)(ids(0), floats(1e20, -1)).tolist() == [np.inf, -1]


def test_min_new_tokens_masks_the_ends_until_reached():
    processor = MinNewTokens(prompt_length=2, min_new_tokens=2, eos_token_id=(0, 2))
    assert kept(processor(ids(1, 1), floats(9, 1, 9))) == [1]
    assert kept(processor(ids(1, 1, 1), floats(9, 1, 9))) == [1]
    assert kept(processor(ids(1, 1, 1, 1), floats(9, 1, 9))) == [0, 1, 2]


def test_temperature_divides():
    assert Temperature(0.5)(NO_IDS, floats(1, -2, -np.inf)).tolist() == [2, -4, -np.inf]


@pytest.mark.parametrize("temperature", [1e-300, 1e-45, 1e-38, 1e-6])
@pytest.mark.parametrize("shift", [0.0, 3e38, -3e38])
def test_a_temperature_near_zero_is_greedy_not_nan(temperature, shift):
    spread = 1.0 if shift == 0 else 1e37
    scaled = Temperature(temperature)(NO_IDS, floats(shift, shift - spread, shift - 2 * spread, -np.inf))
    assert np.argmax(scaled) == 0
    assert np.isfinite(scaled[0])
    assert softmax(scaled).tolist() == [1, 0, 0, 0]


def test_top_k_keeps_all_tied_with_the_kth():
    assert kept(TopK(2)(NO_IDS, floats(1, 3, 2, 2, 0))) == [1, 2, 3]
    assert kept(TopK(9)(NO_IDS, floats(1, 3))) == [0, 1]


@given(any_logits, st.integers(1, 50))
@settings(deadline=None)
def test_top_k_keeps_the_k_largest(logits, top_k):
    result = TopK(top_k)(NO_IDS, logits)
    possible = np.isfinite(logits).sum()
    assert len(kept(result)) >= min(top_k, possible)
    removed = np.isfinite(logits) & ~np.isfinite(result)
    if removed.any():
        edge = logits[np.isfinite(result)].min()
        assert logits[removed].max() < edge
        assert (logits > edge).sum() < top_k


@pytest.mark.parametrize(
    ("top_p", "expected"),
    [(0.3, [0]), (0.5, [0]), (0.51, [0, 1]), (0.75, [0, 1]), (0.8, [0, 1, 2]), (0.99, [0, 1, 2, 3]), (1e-9, [0])],
)
def test_top_p_keeps_the_crossing_token(top_p, expected):
    assert kept(TopP(top_p)(NO_IDS, np.log(floats(0.5, 0.25, 0.125, 0.125)))) == expected


def test_top_p_keeps_the_lower_of_equal_ids():
    assert kept(TopP(0.5)(NO_IDS, np.zeros(10, np.float32))) == [0, 1, 2, 3, 4]


@given(any_logits, st.floats(0.01, 0.999))
@settings(deadline=None)
def test_top_p_keeps_the_smallest_set_that_reaches_it(logits, top_p):
    result = TopP(top_p)(NO_IDS, logits)
    keep = np.isfinite(result)
    assert keep.any()
    np.testing.assert_array_equal(result[keep], logits[keep])
    shifted = logits[np.isfinite(logits)].astype(np.float64) - float(logits.max())
    total = np.exp(shifted).sum()
    mass = np.exp(result[keep].astype(np.float64) - float(logits.max())) / total
    assert mass.sum() >= top_p - 1e-6
    assert mass.sum() - mass.min() < top_p + 1e-6


@given(any_logits, st.floats(0.001, 1.0))
@settings(deadline=None)
def test_min_p_keeps_what_is_likely_enough(logits, min_p):
    result = MinP(min_p)(NO_IDS, logits)
    ratios = np.exp(logits.astype(np.float64) - float(logits.max()))
    assert np.isfinite(result[np.argmax(logits)])
    assert np.isfinite(result[ratios > min_p * (1 + 1e-5)]).all()
    assert not np.isfinite(result[ratios < min_p * (1 - 1e-5)]).any()


@given(any_logits, st.sampled_from([Temperature(0.7), TopK(3), TopP(0.8), MinP(0.1), RepetitionPenalty(1.3)]))
@settings(deadline=None)
def test_processors_leave_their_input_alone(logits, processor):
    before = logits.copy()
    processor(ids(0, 0), logits)
    np.testing.assert_array_equal(logits, before)


def test_the_order_is_that_of_transformers():
    config = GenerationConfig(
        do_sample=True,
        temperature=0.7,
        top_k=5,
        top_p=0.9,
        min_p=0.1,
        repetition_penalty=1.1,
        min_new_tokens=3,
        eos_token_id=(2, 900),
    )
    processors = built_in(config, prompt=[1] * 4, vocab_size=10)
    assert processors == [RepetitionPenalty(1.1), MinNewTokens(4, 3, (2,))]
    assert default_warpers(config) == [Temperature(0.7), TopK(5), TopP(0.9), MinP(0.1)]


def test_disabled_settings_make_no_processors():
    assert built_in(GenerationConfig(eos_token_id=(1,)), vocab_size=10) == []
    assert built_in(GenerationConfig(min_new_tokens=1, min_length=5), vocab_size=10) == []
    assert default_warpers(GenerationConfig(do_sample=True)) == []
    assert default_warpers(GenerationConfig(top_k=5)) == []


def test_compose_applies_in_order():
    double = compose([lambda ids, logits: logits + 1, lambda ids, logits: logits * 2])
    assert double(NO_IDS, floats(1, 2)).tolist() == [4, 6]


@pytest.mark.parametrize("result", [None, np.zeros(3, np.float32), np.zeros(2, np.int64), [1.0, 2.0]])
def test_compose_names_a_processor_that_returns_no_logits(result):
    def forgetful(ids, logits):
        return result

    with pytest.raises(ConfigError, match=r"the logits processor forgetful returned .*must return float32 logits"):
        compose([forgetful])(NO_IDS, floats(1, 2))


def test_compose_takes_float64():
    result = compose([lambda ids, logits: logits.astype(np.float64)])(NO_IDS, floats(1, 2))
    assert result.dtype == np.float32
