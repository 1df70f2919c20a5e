from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.fake_decoder import BigramDecoder, counting_decoder, random_decoder

from edgelm.config import GenerationConfig
from edgelm.errors import CancelledError, NumericError, PromptError
from edgelm.generation.hooks import Hooks
from edgelm.generation.loop import generate_ids
from edgelm.generation.speculative import NO_GUESSES, Guesses, generate_guessed_ids
from edgelm.generation.speculative_lookup import NGramGuesser
from edgelm.generation.stopping import FinishReason

STOP, LENGTH = FinishReason.STOP, FinishReason.LENGTH


class Oracle:
    """Guesses what follows in a bigram table, but every so often wrongly; keeps what it was asked."""

    def __init__(self, table, wrong_every=0, most=6):
        self.table, self.wrong_every, self.most = table, wrong_every, most
        self.asked = []

    def guess(self, ids, most):
        self.asked.append((ids.tolist(), most))
        tokens, newest = [], int(ids[-1])
        for _ in range(min(most, self.most)):
            newest = int(self.table[newest].argmax())
            if self.wrong_every and (len(ids) + len(tokens)) % self.wrong_every == 0:
                newest = (newest + 1) % len(self.table)
            tokens.append(newest)
        return Guesses(np.array(tokens, np.int64)) if tokens else NO_GUESSES


def guessed(decoder, prompt, config=None, guesser=None, **options):
    guesser = Oracle(decoder.table) if guesser is None else guesser
    steps = list(generate_guessed_ids(decoder, prompt, config or GenerationConfig(), guesser, **options))
    assert all(step.finish_reason is None for step in steps[:-1])
    return [step.token for step in steps], steps[-1].finish_reason


def plain(decoder, prompt, config=None, **options):
    steps = list(generate_ids(decoder, prompt, config or GenerationConfig(), **options))
    return [step.token for step in steps], steps[-1].finish_reason


def test_right_guesses_take_one_run_for_many_tokens():
    decoder = counting_decoder()
    counts = []
    config = GenerationConfig(max_new_tokens=8)
    tokens, reason = guessed(decoder, [3], config, counted=lambda *each: counts.append(each))
    assert (tokens, reason) == ([4, 5, 6, 7, 8, 9, 10, 11], LENGTH)
    assert decoder.verified == [[4, 5, 6, 7, 8, 9, 10]]
    assert decoder.steps == []
    assert np.sum(counts, axis=0).tolist() == [6, 6]


def test_a_wrong_guess_is_replaced_and_what_follows_it_forgotten():
    decoder = counting_decoder()
    oracle = Oracle(decoder.table, wrong_every=3)
    counts = []
    config = GenerationConfig(max_new_tokens=6)
    assert guessed(decoder, [0], config, oracle, counted=lambda *each: counts.append(each))[0] == [1, 2, 3, 4, 5, 6]
    assert decoder.cache == [0, 1, 2, 3, 4, 5]
    guesses, right = np.sum(counts, axis=0)
    assert guesses > right > 0


def test_no_more_is_guessed_than_the_answer_may_have():
    decoder = counting_decoder(context_length=8)
    oracle = Oracle(decoder.table, most=100)
    assert guessed(decoder, [1, 2], GenerationConfig(max_new_tokens=50), oracle) == ([3, 4, 5, 6, 7, 8], LENGTH)
    assert oracle.asked == [([1, 2, 3], 4)]
    assert decoder.length == 7


def test_the_last_token_is_not_guessed():
    decoder = counting_decoder()
    oracle = Oracle(decoder.table)
    assert guessed(decoder, [0], GenerationConfig(max_new_tokens=2), oracle)[0] == [1, 2]
    assert oracle.asked == [([0, 1], 0)]
    assert decoder.steps == [1]


CONFIGS = [
    {},
    {"eos_token_id": (3, 9)},
    {"repetition_penalty": 1.7},
    {"no_repeat_ngram_size": 2},
    {"no_repeat_ngram_size": 2, "repetition_penalty": 0.8, "eos_token_id": 5, "min_new_tokens": 9},
    {"frequency_penalty": 1.5, "presence_penalty": 0.5},
    {"bad_words_ids": ((1, 2), (7,)), "suppress_tokens": (4,)},
    {"forced_eos_token_id": 6, "eos_token_id": 6},
    {"exponential_decay_length_penalty": (3, 1.5), "eos_token_id": 2},
    {"encoder_no_repeat_ngram_size": 2},
]


@given(
    st.integers(0, 1000),
    st.lists(st.integers(0, 15), min_size=1, max_size=12),
    st.sampled_from(CONFIGS),
    st.sampled_from([{}, {"do_sample": True}, {"do_sample": True, "top_k": 3, "temperature": 0.7}]),
    st.integers(0, 5),
    st.integers(1, 40),
)
@settings(deadline=None, max_examples=300)
def test_tokens_are_those_of_the_plain_loop(seed, prompt, processing, sampling, wrong_every, wanted):
    config = GenerationConfig(
        **processing, **sampling, seed=seed, max_new_tokens=max(wanted, processing.get("min_new_tokens", 0))
    )
    decoder, twin = random_decoder(seed=seed), random_decoder(seed=seed)
    answer = plain(twin, prompt, config)
    assert guessed(decoder, prompt, config, Oracle(decoder.table, wrong_every)) == answer
    assert decoder.cache == [*prompt, *answer[0]][:-1] == twin.cache
    again = random_decoder(seed=seed)
    assert guessed(again, prompt, config, NGramGuesser()) == answer


@given(st.integers(0, 100), st.integers(1, 12))
@settings(deadline=None)
def test_closed_at_any_token_the_cache_holds_all_but_the_last(seed, taken):
    decoder = random_decoder(seed=seed)
    steps = generate_guessed_ids(decoder, [1, 2], GenerationConfig(max_new_tokens=20), Oracle(decoder.table, 4))
    tokens = [next(steps).token for _ in range(taken)]
    steps.close()
    assert decoder.cache == [1, 2, *tokens[:-1]]


def test_processors_and_criteria_see_each_position_once_in_order():
    def watched(run, *more):
        seen = []

        def process(ids, logits):
            seen.append(ids.tolist())
            logits[:] = -logits  # also in place
            return logits

        def stop(ids, logits):
            seen.append((ids.tolist(), logits.tolist()))
            return len(ids) == 13

        hooks = Hooks(logits_processor=(process,), stopping_criteria=(stop,))
        decoder = random_decoder(seed=5)
        decoder.table = decoder.table.copy()
        return run(decoder, [3, 1], GenerationConfig(), *more, hooks=hooks), seen

    once = watched(plain)
    assert watched(guessed, Oracle(-random_decoder(seed=5).table, 4)) == once
    assert once[0][1] is STOP


def test_log_probabilities_are_those_of_the_plain_loop():
    config = GenerationConfig(max_new_tokens=9, logprobs=True, top_logprobs=2, repetition_penalty=1.3)
    decoder = random_decoder(seed=2)
    with_guesses = list(generate_guessed_ids(decoder, [1], config, Oracle(decoder.table, 3)))
    assert with_guesses == list(generate_ids(random_decoder(seed=2), [1], config))
    assert with_guesses[0].logprobs is not None


def test_an_answer_ends_in_time_between_guesses():
    decoder = counting_decoder()
    steps = generate_guessed_ids(decoder, [0], GenerationConfig(max_time=1e-9), Oracle(decoder.table))
    assert [(step.token, step.finish_reason) for step in steps] == [(1, LENGTH)]


def test_cancelling_ends_it_between_runs_with_a_cache_that_is_right():
    decoder = counting_decoder()
    answers = iter([False, False, True])
    steps = generate_guessed_ids(
        decoder, [0], GenerationConfig(), Oracle(decoder.table, most=2), cancelled=lambda: next(answers)
    )
    tokens = []
    with pytest.raises(CancelledError):
        tokens.extend(step.token for step in steps)
    assert decoder.cache == [0, 1, 2, 3]


def test_bad_logits_name_the_step():
    table = counting_decoder().table
    table[2, 3] = np.nan
    decoder = BigramDecoder(table)
    with pytest.raises(NumericError, match="step 3: the logit of token 3 is nan"):
        guessed(decoder, [0], guesser=Oracle(counting_decoder().table))


def test_a_cache_that_does_not_match_is_refused():
    with pytest.raises(PromptError, match="the decoder holds 0 tokens, but the caller says 1 are cached"):
        guessed(counting_decoder(), [1, 2], cached=1)
