"""Guesses change nothing about the distribution of what comes: chi-square tests with fixed seeds."""

from __future__ import annotations

import numpy as np
import pytest
from support.fake_decoder import BigramDecoder, random_decoder

from edgelm.config import GenerationConfig
from edgelm.generation.requests import ModelSizes, Request, check_request
from edgelm.generation.sampling import make_narrower, make_sampler
from edgelm.generation.speculative import Guesses, generate_guessed_ids
from edgelm.generation.speculative_draft import DraftGuesser
from edgelm.generation.speculative_sampling import (
    Distribution,
    SpeculativeStochasticSampler,
    index_at,
    make_speculative_sampler,
)

V = 8
CONFIGS = [
    {},
    {"temperature": 0.6},
    {"temperature": 1.8, "top_p": 0.9},
    {"top_k": 3},
    {"min_p": 0.1, "repetition_penalty": 1.4},
]


def exact(config, logits):
    """The probabilities that the sampler should have, (V,)."""
    return Distribution.of_logits(*make_narrower(config)(logits)).over(len(logits))


def chi_square_is_plausible(counts, expected):
    """Whether counts fit probabilities at p > 0.001 (Wilson and Hilferty's approximation)."""
    counts, expected = np.asarray(counts, float).ravel(), np.asarray(expected, float).ravel()
    assert not counts[expected == 0].any(), "a token of probability 0 came"
    here = expected > 0
    expected = expected[here] * counts.sum()
    value = ((counts[here] - expected) ** 2 / expected).sum()
    freedom = here.sum() - 1
    if freedom == 0:
        return True
    limit = freedom * (1 - 2 / (9 * freedom) + 3.09 * np.sqrt(2 / (9 * freedom))) ** 3
    return value < limit


@pytest.mark.parametrize("settings", CONFIGS)
def test_a_checked_guess_has_the_wanted_distribution(settings):
    config = GenerationConfig(do_sample=True, seed=1, **settings)
    rng = np.random.default_rng(2)
    logits, other = (rng.normal(0, 1.5, V).astype(np.float32) for _ in range(2))
    drawn_from = Distribution.of_logits(*make_narrower(config)(other))
    sampler = make_speculative_sampler(config)
    counts = np.zeros(V)
    kept = 0
    for uniform in rng.random(10_000):
        guess = drawn_from.draw(uniform)
        token = sampler.check(logits, guess, drawn_from)
        counts[token] += 1
        kept += token == guess
    wanted = exact(config, logits)
    assert chi_square_is_plausible(counts, wanted)
    assert kept / counts.sum() == pytest.approx(np.minimum(wanted, drawn_from.over(V)).sum(), abs=0.03)


@pytest.mark.parametrize(
    ("settings", "kind"),
    [*((settings, "draft") for settings in CONFIGS[1:]), (CONFIGS[0], "same draft"), (CONFIGS[2], "lookup")],
)
def test_the_first_tokens_have_the_exact_distribution(settings, kind):
    table = random_decoder(V, seed=7).table
    draft_table = table if kind == "same draft" else table + random_decoder(V, seed=8).table * np.float32(0.7)
    counts = np.zeros((V, V, V))
    for seed in range(1_500):
        config = GenerationConfig(do_sample=True, seed=seed, max_new_tokens=4, **settings)
        decoder, draft = BigramDecoder(table), BigramDecoder(draft_table)
        process = check_request(Request(prompt=[0]), config, ModelSizes(V, 64)).process
        guesser = _Certain(table) if kind == "lookup" else DraftGuesser(draft, process, config, vocab_size=V, cost=0.1)
        tokens = [step.token for step in generate_guessed_ids(decoder, [0], config, guesser)]
        counts[tuple(tokens[:3])] += 1
    wanted = np.zeros((V, V, V))
    process = check_request(Request(prompt=[0]), config, ModelSizes(V, 64)).process
    first = exact(config, process(np.array([0]), table[0]))
    for a in np.flatnonzero(first):
        second = exact(config, process(np.array([0, a]), table[a]))
        for b in np.flatnonzero(second):
            wanted[a, b] = first[a] * second[b] * exact(config, process(np.array([0, a, b]), table[b]))
    assert chi_square_is_plausible(*_merged(counts, wanted))


class _Certain:
    """Guesses the likeliest, and says that it is its only choice."""

    def __init__(self, table):
        self.table = table

    def guess(self, ids, most):
        tokens = [int(ids[-1])]
        for _ in range(min(most, 3)):
            tokens.append(int(self.table[tokens[-1]].argmax()))
        return Guesses(np.array(tokens[1:], np.int64))


def _merged(counts, wanted):
    """What is rare goes into one class, for which the approximation holds."""
    counts, wanted = counts.ravel(), wanted.ravel()
    assert not counts[wanted == 0].any()
    rare = wanted * counts.sum() < 8
    return np.append(counts[~rare], counts[rare].sum()), np.append(wanted[~rare], wanted[rare].sum())


def test_without_drawn_guesses_the_seed_gives_the_plain_tokens():
    logits = np.random.default_rng(0).normal(0, 2, (50, V)).astype(np.float32)
    for config in (GenerationConfig(), GenerationConfig(do_sample=True, seed=9, top_k=5)):
        plain, speculative = make_sampler(config), make_speculative_sampler(config)
        assert [plain(row) for row in logits] == [speculative(row) for row in logits]


def test_greedy_takes_the_likeliest_whatever_was_guessed():
    sampler = make_speculative_sampler(GenerationConfig())
    drawn_from = Distribution(None, np.array([0.0, 1.0]))
    assert sampler.check(np.array([2.0, 1.0], np.float32), 1, drawn_from) == 0


def test_a_guess_that_cannot_come_is_replaced():
    sampler = SpeculativeStochasticSampler(make_narrower(GenerationConfig(do_sample=True)), 0)
    drawn_from = Distribution(np.array([1]), np.array([1.0]))
    logits = np.array([0.0, -np.inf, 0.0], np.float32)
    assert {sampler.check(logits, 1, drawn_from) for _ in range(50)} == {0, 2}


def test_probabilities_of_a_distribution():
    narrowed = Distribution.of_logits(np.array([2, 5]), np.log(np.array([1.0, 3.0], np.float32)))
    assert [narrowed.of(token) for token in (0, 2, 5, 7)] == pytest.approx([0.0, 0.25, 0.75, 0.0])
    assert narrowed.over(7) == pytest.approx([0, 0, 0.25, 0, 0, 0.75, 0])
    assert (narrowed.draw(0.24), narrowed.draw(0.26)) == (2, 5)


def test_no_index_without_weight_is_chosen():
    weights = np.array([0.0, 0.5, 0.0, 0.5, 0.0])
    assert {index_at(weights, uniform) for uniform in (0.0, 0.49, 0.5, 1 - 2**-53)} == {1, 3}
