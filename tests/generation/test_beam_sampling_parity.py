"""Beam sampling against transformers', which is given the draws that ours makes; all else must be the same."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.beam_draws import our_draws
from support.fake_batch_decoder import TableDecoder, random_table
from support.table_model import generate, make_table_model

from edgelm.config import GenerationConfig
from edgelm.generation.beam_search import beam_search
from edgelm.generation.requests import Request

pytestmark = pytest.mark.reference

VOCABULARY = 11
CONTEXT = 40
PADDING = VOCABULARY - 1  # ends no sequence here, so that no filler does


@pytest.fixture(scope="module")
def table_model():
    return make_table_model(VOCABULARY, CONTEXT)


def check(model, prompt, values, seed, spread=2.0):
    table = random_table(VOCABULARY, seed, spread)
    config = GenerationConfig(do_sample=True, seed=seed, **values)
    (ours,) = beam_search(TableDecoder(table, CONTEXT), [Request(prompt=prompt)], config)
    with our_draws(seed, vocab_size=VOCABULARY, never=PADDING):
        sequences, scores = generate(model, table, prompt, {"do_sample": True, "pad_token_id": PADDING, **values})
    assert len(ours) == len(sequences) == config.num_return_sequences
    for answer, sequence, score in zip(ours, sequences, scores, strict=True):
        assert sequence == [*answer.tokens, *[PADDING] * (len(sequence) - len(answer.tokens))]
        np.testing.assert_allclose(answer.score, score, rtol=1e-4, atol=1e-5)


tokens = st.integers(0, VOCABULARY - 2)


@st.composite
def sampling_settings(draw):
    values = draw(
        st.fixed_dictionaries(
            {
                "num_beams": st.integers(2, 5),
                "length_penalty": st.sampled_from([-1.0, 0.0, 0.6, 2.0]),
                "early_stopping": st.sampled_from([True, False, "never"]),
                "max_new_tokens": st.integers(2, 12),
                "temperature": st.sampled_from([0.7, 1.0, 1.5]),
                "top_k": st.sampled_from([0, 4, 8]),
            },
            optional={
                "eos_token_id": st.lists(tokens, min_size=1, max_size=2, unique=True),
                "top_p": st.sampled_from([0.5, 0.9]),
                "min_p": st.sampled_from([0.05, 0.3]),
                "typical_p": st.just(0.8),
                "epsilon_cutoff": st.just(0.1),
                "eta_cutoff": st.just(0.1),
                "no_repeat_ngram_size": st.integers(2, 3),
                "repetition_penalty": st.sampled_from([0.8, 1.3]),
            },
        )
    )
    values["min_new_tokens"] = draw(st.integers(0, 2))
    values["num_return_sequences"] = draw(st.integers(1, values["num_beams"]))
    return values


@given(
    st.lists(tokens, min_size=1, max_size=4), sampling_settings(), st.integers(0, 10**6), st.sampled_from([0.5, 2.0])
)
@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
def test_any_draws_lead_where_they_lead_in_transformers(table_model, prompt, values, seed, spread):
    check(table_model, prompt, values, seed, spread)


@pytest.mark.parametrize("early_stopping", [True, False, "never"])
@pytest.mark.parametrize("length_penalty", [-1.0, 0.8, 2.0])
def test_each_form_of_stopping(table_model, early_stopping, length_penalty):
    values = {"num_beams": 4, "length_penalty": length_penalty, "early_stopping": early_stopping, "top_p": 0.95}
    for seed in range(4):
        more = {"eos_token_id": [3, 5], "max_new_tokens": 20, "num_return_sequences": 4}
        check(table_model, [1], values | more, seed, spread=1.0)
