from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.fake_decoder import BigramDecoder, counting_decoder, random_decoder

from edgelm.config import GenerationConfig
from edgelm.generation.loop import generate_ids
from edgelm.generation.requests import ModelSizes, Request, check_request
from edgelm.generation.speculative import generate_guessed_ids
from edgelm.generation.speculative_draft import DraftGuesser


def answer(decoder, draft, prompt, config, *, cost=0.05, most=16, cached=0):
    """Tokens, and how many were guessed and right."""
    counts = [(0, 0)]
    sizes = ModelSizes(decoder.vocab_size, decoder.context_length)
    process = check_request(Request(prompt=prompt), config, sizes).process
    guesser = DraftGuesser(draft, process, config, vocab_size=decoder.vocab_size, cost=cost, most=most)
    steps = generate_guessed_ids(
        decoder, prompt, config, guesser, cached=cached, counted=lambda *each: counts.append(each)
    )
    return [step.token for step in steps], np.sum(counts, axis=0).tolist()


def plain(decoder, prompt, config):
    return [step.token for step in generate_ids(decoder, prompt, config)]


def nearly(decoder, seed):
    """A draft that is right most of the time."""
    noise = np.random.default_rng(seed).normal(0, 0.6, decoder.table.shape)
    return BigramDecoder((decoder.table + noise).astype(np.float32), decoder.context_length)


@given(
    st.integers(0, 500),
    st.sampled_from([{}, {"no_repeat_ngram_size": 2}, {"repetition_penalty": 1.5}, {"eos_token_id": (3, 5)}]),
    st.lists(st.integers(0, 15), min_size=1, max_size=10),
    st.integers(1, 40),
    st.sampled_from([20, 64]),
)
@settings(deadline=None, max_examples=200)
def test_greedy_tokens_are_those_of_the_plain_loop(seed, processing, prompt, wanted, context):
    config = GenerationConfig(**processing, max_new_tokens=wanted)
    decoder = random_decoder(seed=seed)
    draft = nearly(decoder, seed)
    draft.context_length = context
    tokens, _ = answer(decoder, draft, prompt, config)
    assert tokens == plain(random_decoder(seed=seed), prompt, config)
    assert decoder.cache == [*prompt, *tokens][:-1]


def test_an_equal_draft_is_always_right_and_reads_each_token_once():
    decoder, draft = counting_decoder(), counting_decoder()
    tokens, (guessed, right) = answer(decoder, draft, [3, 4], GenerationConfig(max_new_tokens=30))
    assert tokens == [(5 + place) % 16 for place in range(30)]
    assert guessed == right > 20
    assert len(decoder.verified) + len(decoder.steps) <= 6
    read = sum(map(len, draft.prefills)) + len(draft.steps) + sum(map(len, draft.verified))
    assert read <= 2 + 30


def test_the_penalties_hold_for_the_draft_too():
    config = GenerationConfig(max_new_tokens=14, no_repeat_ngram_size=1)
    table = np.tile(np.arange(16, 0, -1, dtype=np.float32), (16, 1))
    tokens, (guessed, right) = answer(BigramDecoder(table), BigramDecoder(table), [0], config)
    assert tokens == list(range(1, 15))
    assert guessed == right > 0


def test_a_draft_that_is_never_right_is_asked_ever_less():
    decoder = counting_decoder(context_length=4000)
    table = np.zeros((16, 16), np.float32)
    table[:, 0] = 1.0
    table[15] = np.arange(16)
    draft = BigramDecoder(table, 4000)
    _, (guessed, right) = answer(decoder, draft, [3], GenerationConfig(max_new_tokens=3000))
    assert right < 10
    assert guessed < 100


def test_a_draft_that_becomes_right_is_found_out():
    decoder = counting_decoder(vocab_size=512, context_length=600)
    table = counting_decoder(vocab_size=512).table.copy()
    table[:128] = 0.0  # knows nothing of the beginning
    _, (_, right) = answer(decoder, BigramDecoder(table, 600), [0], GenerationConfig(max_new_tokens=500))
    assert right > 100


@pytest.mark.parametrize("cost", [1.0, 3.0])
def test_a_draft_that_is_too_slow_is_never_asked(cost):
    _, counts = answer(counting_decoder(), counting_decoder(), [3], GenerationConfig(max_new_tokens=30), cost=cost)
    assert counts == [0, 0]


def test_what_the_draft_knows_of_the_prompt_is_not_read_again():
    decoder, draft = counting_decoder(), counting_decoder()
    draft.cache = [1, 2]
    answer(decoder, draft, [1, 2, 3, 4], GenerationConfig(max_new_tokens=12))
    assert draft.verified[0] == [3, 4, 5]
    assert draft.prefills == []


@pytest.mark.parametrize("width", [12, 20])
def test_widths_that_differ_by_padding_are_brought_in_line(width):
    decoder, draft = counting_decoder(), counting_decoder()
    draft.table = np.full((16, width), -1.0, np.float32)
    draft.table[:, : min(width, 16)] = decoder.table[:, : min(width, 16)]
    draft._buffer = np.empty(width, np.float32)
    for sampling in ({}, {"do_sample": True, "seed": 1}):
        config = GenerationConfig(max_new_tokens=20, **sampling)
        tokens, (guessed, _) = answer(counting_decoder(), draft, [3], config)
        assert len(tokens) == 20
        assert guessed > 0
        draft.cache = []


def test_the_same_seed_gives_the_same_answer():
    def run(seed):
        decoder = random_decoder(seed=1)
        return answer(decoder, nearly(decoder, 2), [1], GenerationConfig(do_sample=True, seed=seed, max_new_tokens=40))

    assert run(5) == run(5)
    assert run(5)[0] != run(6)[0]


@pytest.mark.parametrize("value", [np.nan, -np.inf])
def test_a_draft_without_numbers_guesses_nothing(value):
    draft = counting_decoder()
    draft.table = np.full_like(draft.table, value)
    tokens, counts = answer(counting_decoder(), draft, [3], GenerationConfig(max_new_tokens=5))
    assert (tokens, counts) == ([4, 5, 6, 7, 8], [0, 0])
