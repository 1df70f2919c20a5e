"""Log probabilities of chosen tokens: those of the model, whatever penalties and cuts made of them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.fake_decoder import BigramDecoder, random_decoder
from support.logit_vectors import generated_logits, small_logits

from edgelm.config import GenerationConfig
from edgelm.generation.hooks import Hooks
from edgelm.generation.logprobs import make_scorer
from edgelm.generation.loop import generate_ids


def test_nothing_is_computed_that_nobody_asked_for():
    assert make_scorer(GenerationConfig()) is None


@given(small_logits() | generated_logits(most=3000), st.integers(0, 20))
@settings(deadline=None)
def test_the_likeliest_come_first_and_are_so_many(logits, count):
    score = make_scorer(GenerationConfig(logprobs=True, top_logprobs=count))
    token = int(logits.argmax())
    found = score(logits, token)
    exact = logits.astype(np.float64)
    exact = exact - exact.max() - np.log(np.exp(exact - exact.max()).sum())
    np.testing.assert_allclose(found.logprob, exact[token], rtol=1e-5, atol=1e-5)
    values = [value for _, value in found.top]
    assert len(values) == min(count, np.isfinite(logits).sum())
    np.testing.assert_allclose(values, np.sort(exact)[::-1][: len(values)], rtol=1e-5, atol=1e-5)
    assert len({index for index, _ in found.top}) == len(values)


@pytest.mark.parametrize("in_place", [False, True])
def test_what_penalties_and_processors_do_does_not_show(in_place):
    def forbid(ids, logits):
        changed = logits if in_place else logits.copy()
        changed[0] = -np.inf
        return changed

    table = np.tile(np.array([3.0, 2.0, 1.0], np.float32), (3, 1))
    config = GenerationConfig(top_logprobs=1, repetition_penalty=9.0, max_new_tokens=2)
    hooks = Hooks(logits_processor=(forbid,))
    steps = list(generate_ids(BigramDecoder(table), [2], config, hooks=hooks))
    expected = np.log(np.exp([3.0, 2.0, 1.0]) / np.exp([3.0, 2.0, 1.0]).sum())
    assert steps[0].token == 1
    for step in steps:
        assert step.logprobs.logprob == pytest.approx(expected[step.token], abs=1e-6)
        assert step.logprobs.top == ((0, pytest.approx(expected[0], abs=1e-6)),)


def test_asking_changes_no_token():
    plain = GenerationConfig(do_sample=True, top_k=5, seed=4, max_new_tokens=12)
    tokens = [step.token for step in generate_ids(random_decoder(), [1, 2], plain)]
    asked = list(generate_ids(random_decoder(), [1, 2], plain.updated(top_logprobs=3)))
    assert [step.token for step in asked] == tokens
    assert all(step.logprobs for step in asked)
