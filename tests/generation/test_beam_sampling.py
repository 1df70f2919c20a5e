"""Beam sampling: the exact distribution of draws without replacement, seeds, and what is drawn when little is left."""

from __future__ import annotations

import itertools
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.chi_square import chi_square, chi_square_limit
from support.fake_batch_decoder import TableDecoder, random_table
from support.logit_vectors import generated_logits, small_logits

from edgelm.config import GenerationConfig
from edgelm.generation.beam_draw import draw_several
from edgelm.generation.beam_search import beam_search
from edgelm.generation.default_processors import default_warpers
from edgelm.generation.distributions import log_softmax
from edgelm.generation.logits_processors import NO_IDS, compose
from edgelm.generation.requests import Request
from edgelm.generation.sampling import make_narrower, next_uniform

VOCABULARY = 16


def floats(*values):
    return np.array(values, np.float32)


def uniforms(seed, count):
    random = np.random.PCG64(seed)
    return [next_uniform(random) for _ in range(count)]


def in_order(scores, count):
    """Every order of so many draws without replacement → its probability."""
    weights = np.exp(scores.astype(np.float64) - scores.max())
    found = {}
    for order in itertools.permutations(np.flatnonzero(weights).tolist(), count):
        left, probability = weights.sum(), 1.0
        for index in order:
            probability *= weights[index] / left
            left -= weights[index]
        found[order] = probability
    return found


def check_distribution(drawn, expected):
    counts = Counter(drawn)
    assert set(counts) <= set(expected)
    orders = sorted(expected)
    observed = np.array([counts[order] for order in orders])
    statistic, freedom = chi_square(observed, np.array([expected[order] for order in orders]))
    assert statistic < chi_square_limit(freedom)


@pytest.mark.parametrize(
    ("scores", "count"),
    [
        (floats(0.0, 1.0, -1.0, 0.5), 2),
        (floats(-40.0, -41.0, -np.inf, -39.5, -42.0), 3),  # scores of long sequences
        (floats(3.0, 0.0, 0.0, -2.0), 4),
        (floats(20.0, 0.0, 1.0), 2),  # one has nearly everything, and the others must not go without
    ],
)
def test_draws_without_replacement_have_the_exact_distribution_of_orders(scores, count):
    random = np.random.PCG64(11)
    drawn = [tuple(draw_several(scores, [next_uniform(random) for _ in range(count)]).tolist()) for _ in range(20_000)]
    check_distribution(drawn, in_order(scores, count))


@given(small_logits(), st.integers(1, 12), st.integers(0, 2**32))
@settings(deadline=None)
def test_each_is_drawn_once_and_what_is_ruled_out_comes_last(scores, count, seed):
    drawn = draw_several(scores, uniforms(seed, count))
    assert drawn.size == min(count, scores.size) == np.unique(drawn).size
    allowed = np.isfinite(scores[drawn])
    assert allowed.sum() == min(count, np.isfinite(scores).sum())
    assert not np.any(np.diff(allowed.astype(int)) > 0)


def test_the_same_uniforms_draw_the_same():
    scores = ((np.arange(60) * 37 % 101 - 50) / 16).astype(np.float32)
    # Of all machines, versions of Python and of numpy.
    assert draw_several(scores, uniforms(7, 6)).tolist() == [35, 53, 46, 16, 19, 51]


def searched(table, prompts, **values):
    config = GenerationConfig(do_sample=True, **values)
    return beam_search(TableDecoder(table), [Request(prompt=prompt) for prompt in prompts], config)


def test_the_answers_of_one_step_have_the_exact_distribution():
    """Two beams and no end token: of four draws the first two are the answers, the likelier one first."""
    table = random_table(5, 3, 1.0)
    values = {"num_beams": 2, "num_return_sequences": 2, "max_new_tokens": 1, "temperature": 1.4, "top_k": 4}
    config = GenerationConfig(do_sample=True, **values)
    scores = compose(default_warpers(config))(NO_IDS, log_softmax(table[1, 2, 2]))
    expected: Counter[tuple[int, ...]] = Counter()
    for order, probability in in_order(scores, 2).items():
        expected[tuple(sorted(order, key=lambda token: -scores[token]))] += probability
    drawn = []
    for seed in range(4000):
        (answers,) = searched(table, [[2]], seed=seed, **values)
        drawn.append(tuple(answer.tokens[0] for answer in answers))
        assert [answer.score for answer in answers] == [scores[answer.tokens[0]] for answer in answers]
    check_distribution(drawn, expected)


def test_two_steps_have_the_exact_distribution():
    table = random_table(2, 5, 0.7)  # two beams and two tokens: both of the first step, and all four of the second
    first = log_softmax(table[1, 1, 1])
    sequences = list(itertools.product((0, 1), repeat=2))
    scores = floats(*(first[one] + log_softmax(table[2, 1, one])[two] for one, two in sequences))
    expected: Counter[tuple[tuple[int, ...], ...]] = Counter()
    for order, probability in in_order(scores, 2).items():
        expected[tuple(sequences[place] for place in sorted(order, key=lambda place: -scores[place]))] += probability
    call = {"num_beams": 2, "num_return_sequences": 2, "max_new_tokens": 2}
    drawn = [tuple(answer.tokens for answer in searched(table, [[1]], seed=seed, **call)[0]) for seed in range(3000)]
    check_distribution(drawn, expected)


@given(
    st.lists(st.lists(st.integers(0, VOCABULARY - 1), min_size=1, max_size=5), min_size=1, max_size=3),
    st.integers(2, 4),
    st.sampled_from([{}, {"top_k": 3}, {"temperature": 0.6, "top_p": 0.8}, {"min_p": 0.1}]),
    st.integers(0, 10**6),
)
@settings(max_examples=40, deadline=None)
def test_a_seed_gives_the_same_answers_alone_and_among_others(prompts, beams, narrowing, seed):
    table = random_table(VOCABULARY, seed)
    call = {"num_beams": beams, "num_return_sequences": beams, "max_new_tokens": 6, "eos_token_id": (0, 3)}
    together = searched(table, prompts, seed=seed, **call, **narrowing)
    assert together == searched(table, prompts, seed=seed, **call, **narrowing)
    assert together == [searched(table, [prompt], seed=seed, **call, **narrowing)[0] for prompt in prompts]


def test_without_a_seed_and_with_others_the_answers_differ():
    table = random_table(VOCABULARY, 1, 1.0)
    call = {"num_beams": 3, "max_new_tokens": 12}
    assert len({searched(table, [[1]], **call)[0][0].tokens for _ in range(5)}) > 1
    assert len({searched(table, [[1]], seed=seed, **call)[0][0].tokens for seed in range(5)}) > 1


def test_a_cold_draw_is_the_search():
    table = random_table(VOCABULARY, 8)
    call = {"num_beams": 3, "num_return_sequences": 3, "max_new_tokens": 8, "eos_token_id": 4}
    drawn = searched(table, [[1], [2, 3]], seed=1, temperature=1e-4, **call)
    found = beam_search(TableDecoder(table), [Request(prompt=[1]), Request(prompt=[2, 3])], GenerationConfig(**call))
    assert [answers[0].tokens for answers in drawn] == [answers[0].tokens for answers in found]


@given(
    st.one_of(small_logits(), generated_logits(least=1000, most=12_000)),
    st.lists(st.integers(0, 40), max_size=4, unique=True),
    st.fixed_dictionaries(
        {},
        optional={
            "temperature": st.sampled_from([0.3, 2.0]),
            "top_k": st.integers(1, 30),
            "top_p": st.floats(0.01, 0.99),
            "min_p": st.floats(0.01, 1.0),
            "typical_p": st.floats(0.1, 0.99),
            "epsilon_cutoff": st.floats(0.001, 0.5),
        },
    ),
)
@settings(max_examples=200, deadline=None)
def test_what_beams_keep_is_what_the_warpers_keep(logits, ends, narrowing):
    config = GenerationConfig(do_sample=True, num_beams=2, eos_token_id=ends, **narrowing)
    expected = logits
    for warper in default_warpers(config):
        expected = warper(NO_IDS, expected)
    tokens, kept = make_narrower(config)(logits)
    found = np.full_like(logits, -np.inf)
    found[slice(None) if tokens is None else tokens] = kept
    np.testing.assert_array_equal(found, expected)


def test_a_beam_keeps_tokens_to_go_on_with_however_narrow_the_cut():
    table = random_table(VOCABULARY, 2, 4.0)
    for ends in ((), (1,), (1, 2, 3)):
        config = GenerationConfig(do_sample=True, num_beams=2, top_k=1, top_p=0.01, min_p=1.0, eos_token_id=ends)
        for warper in default_warpers(config):
            assert np.isfinite(warper(NO_IDS, table[1, 2, 2])).sum() == max(1, len(ends)) + 1
        (answers,) = searched(table, [[2]], num_beams=2, top_k=1, max_new_tokens=5, eos_token_id=ends, seed=1)
        assert answers[0].tokens
