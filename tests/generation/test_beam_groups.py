"""Diverse beam search: the answers that transformers gave while it had it, and laws of groups."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.diverse_beams import CONTEXT, read_cases, table
from support.fake_batch_decoder import TableDecoder, random_table

from edgelm.config import GenerationConfig
from edgelm.generation.beam_search import beam_search
from edgelm.generation.distributions import log_softmax
from edgelm.generation.requests import Request
from edgelm.generation.stopping import FinishReason

VOCABULARY = 12
CASES = read_cases()


def searched(logits, prompts, **values):
    decoder = TableDecoder(logits, CONTEXT)
    return decoder, beam_search(decoder, [Request(prompt=prompt) for prompt in prompts], GenerationConfig(**values))


@pytest.mark.parametrize("case", CASES, ids=range(len(CASES)))
def test_answers_are_those_of_transformers(case):
    values = case["settings"]
    ends, padding = values["eos_token_id"], values["pad_token_id"]
    _, (answers,) = searched(table(case["seed"], case["spread"]), [case["prompt"]], **values)
    np.testing.assert_allclose([answer.score for answer in answers], case["scores"], rtol=1e-4, atol=1e-4)
    for answer, expected in zip(answers, case["tokens"], strict=True):
        tokens = list(answer.tokens)
        if answer.finish_reason is FinishReason.STOP:
            assert tokens[-1] in ends
            tokens[-1] = ends[0]  # as theirs writes it, whichever it was
        assert tokens + [padding] * (len(expected) - len(tokens)) == expected


def test_the_cases_are_of_every_kind():
    kinds = [case["settings"] for case in CASES]
    for name in ("early_stopping", "length_penalty", "num_beam_groups", "diversity_penalty"):
        assert len({values[name] for values in kinds}) >= 3
    assert {len(values["eos_token_id"]) for values in kinds} == {0, 1, 2, 3}
    rare = {"no_repeat_ngram_size", "repetition_penalty", "min_new_tokens", "forced_bos_token_id", "bad_words_ids"}
    assert all(sum(name in values for values in kinds) > 3 for name in rare)


def test_a_token_costs_what_the_groups_before_have_taken():
    logits = random_table(VOCABULARY, 3, 0.5)
    (first, second, *_) = order = np.argsort(-logits[1, 4, 4])
    near = log_softmax(logits[1, 4, 4])
    gap = float(near[first] - near[second])
    call = {"num_beams": 3, "num_beam_groups": 3, "num_return_sequences": 3, "max_new_tokens": 1}
    # Twice taken, the best costs the third group two penalties, but once it costs less than the second best does.
    for penalty, taken in ((gap * 0.4, [first] * 3), (gap * 0.7, [first, first, second]), (50.0, order[:3])):
        _, (answers,) = searched(logits, [[4]], diversity_penalty=penalty, **call)
        assert sorted(answer.tokens[0] for answer in answers) == sorted(taken)
        paid = near[taken] - penalty * np.array([list(taken[:n]).count(token) for n, token in enumerate(taken)])
        np.testing.assert_allclose([answer.score for answer in answers], sorted(paid, reverse=True), rtol=1e-5)


prompts = st.lists(st.lists(st.integers(0, VOCABULARY - 1), min_size=1, max_size=5), min_size=1, max_size=4)


@st.composite
def group_settings(draw):
    groups, size = draw(st.integers(2, 3)), draw(st.integers(1, 3))
    return {
        "num_beams": groups * size,
        "num_beam_groups": groups,
        "num_return_sequences": draw(st.integers(1, groups * size)),
        "diversity_penalty": draw(st.sampled_from([0.2, 2.0])),
        "early_stopping": draw(st.sampled_from([True, False, "never"])),
        "length_penalty": draw(st.sampled_from([-1.0, 0.0, 1.0])),
        "eos_token_id": draw(st.lists(st.integers(0, VOCABULARY - 1), max_size=3, unique=True)),
        "max_new_tokens": draw(st.integers(1, 10)),
    }


@given(prompts, group_settings(), st.integers(0, 10**6))
@settings(max_examples=60, deadline=None)
def test_sources_do_not_influence_each_other(some_prompts, values, seed):
    logits = random_table(VOCABULARY, seed, 1.5)
    decoder, together = searched(logits, some_prompts, **values)
    assert together == [searched(logits, [prompt], **values)[1][0] for prompt in some_prompts]
    assert decoder.steps == sorted(decoder.steps, reverse=True)
    for answers in together:
        assert len(answers) == values["num_return_sequences"]
        scores = [answer.score for answer in answers]
        assert scores == sorted(scores, reverse=True)


def test_a_group_that_is_done_leaves_the_decoder():
    logits = random_table(VOCABULARY, 6, 1.0)
    call = {"num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 4.0, "early_stopping": True}
    decoder, (answers,) = searched(logits, [[1]], eos_token_id=(2, 5, 7), max_new_tokens=20, **call)
    assert set(decoder.steps) == {4, 2}
    assert answers[0].finish_reason is FinishReason.STOP


def test_no_two_groups_of_one_beam_take_a_token_at_once_where_that_costs_too_much():
    logits = random_table(VOCABULARY, 9, 1.0)
    call = {"num_beams": 4, "num_beam_groups": 4, "num_return_sequences": 4, "diversity_penalty": 1000.0}
    _, (answers,) = searched(logits, [[1, 2]], max_new_tokens=8, **call)
    for tokens in zip(*(answer.tokens for answer in answers), strict=True):
        assert len(set(tokens)) == 4


def test_the_largest_penalty_and_token_ids_leave_every_beam_a_token():
    values = {"num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 1e30, "max_new_tokens": 3}
    for far in (2**31 - 1, VOCABULARY):
        _, (answers,) = searched(random_table(VOCABULARY, 3), [[1]], eos_token_id=far, pad_token_id=far, **values)
        assert [len(answer.tokens) for answer in answers] == [3]
        assert all(np.isfinite(answer.score) for answer in answers)
