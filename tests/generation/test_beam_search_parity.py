"""Beam search against transformers', on a model that both ask for the same logits."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.fake_batch_decoder import TableDecoder, random_table
from support.table_model import generate, make_table_model

from edgelm.config import GenerationConfig
from edgelm.generation.beam_search import beam_search
from edgelm.generation.requests import Request

pytestmark = pytest.mark.reference

VOCABULARY = 11
CONTEXT = 40
PADDING = VOCABULARY - 1  # theirs takes 0 for none


@pytest.fixture(scope="module")
def table_model():
    return make_table_model(VOCABULARY, CONTEXT)


def theirs(model, table, prompt, values):
    return generate(model, table, prompt, {"pad_token_id": PADDING, **values})


def check(model, prompts, values, seed, spread=2.0):
    table = random_table(VOCABULARY, seed, spread)
    config = GenerationConfig.from_file_values(values)
    ours = beam_search(TableDecoder(table, CONTEXT), [Request(prompt=prompt) for prompt in prompts], config)
    for prompt, answers in zip(prompts, ours, strict=True):
        sequences, scores = theirs(model, table, prompt, values)
        assert len(answers) == len(sequences) == config.num_return_sequences
        for answer, sequence, score in zip(answers, sequences, scores, strict=True):
            # Theirs are padded to the longest.
            assert sequence == [*answer.tokens, *[PADDING] * (len(sequence) - len(answer.tokens))]
            np.testing.assert_allclose(answer.score, score, rtol=1e-4, atol=1e-5)


tokens = st.integers(0, VOCABULARY - 1)
prompts = st.lists(st.lists(tokens, min_size=1, max_size=5), min_size=1, max_size=3)


@st.composite
def beam_settings(draw):
    values = draw(
        st.fixed_dictionaries(
            {
                "num_beams": st.integers(2, 5),
                "length_penalty": st.sampled_from([-1.0, 0.0, 0.6, 1.0, 2.0]),
                "early_stopping": st.sampled_from([True, False, "never"]),
                "eos_token_id": st.lists(tokens, min_size=1, max_size=2, unique=True),
                "max_new_tokens": st.integers(1, 12),
            },
            optional={
                "no_repeat_ngram_size": st.integers(2, 3),
                "repetition_penalty": st.sampled_from([0.8, 1.3]),
                "forced_eos_token_id": tokens,
                "bad_words_ids": st.lists(st.lists(tokens, min_size=2, max_size=3), min_size=1, max_size=2),
            },
        )
    )
    values["min_new_tokens"] = draw(st.integers(0, values["max_new_tokens"]))
    # Where the first token is forced to be the last, there is one answer: what others are called is arbitrary.
    several = "forced_eos_token_id" not in values or values["max_new_tokens"] > 1
    values["num_return_sequences"] = draw(st.integers(1, values["num_beams"] if several else 1))
    return values


@given(prompts, beam_settings(), st.integers(0, 10**6), st.sampled_from([0.5, 2.0, 4.0]))
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_search_finds_what_transformers_finds(table_model, some_prompts, values, seed, spread):
    check(table_model, some_prompts, values, seed, spread)


@pytest.mark.parametrize("early_stopping", [True, False, "never"])
@pytest.mark.parametrize("length_penalty", [-1.0, 0.0, 0.8, 2.0])
@pytest.mark.parametrize("beams", [2, 5])
def test_each_form_of_stopping(table_model, early_stopping, length_penalty, beams):
    values = {"num_beams": beams, "length_penalty": length_penalty, "early_stopping": early_stopping}
    more = {"eos_token_id": 3, "max_new_tokens": 20, "num_return_sequences": beams}
    for seed in range(2):
        check(table_model, [[1], [4, 5, 6]], values | more, seed, spread=1.0)


def test_a_forced_first_and_last_token(table_model):
    values = {"num_beams": 4, "forced_bos_token_id": 6, "forced_eos_token_id": 2, "eos_token_id": 2, "max_length": 9}
    for seed in range(8):
        check(table_model, [[2]], values, seed)


def test_no_end_token(table_model):
    check(table_model, [[2], [3, 4]], {"num_beams": 3, "max_new_tokens": 7, "num_return_sequences": 2}, 1)
