from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.fake_batch_decoder import table_decoder
from support.fake_decoder import random_decoder
from support.word_constraint import OneOf

from edgelm.config import GenerationConfig
from edgelm.errors import ConfigError, NumericError
from edgelm.generation.batch_loop import generate_batch_ids
from edgelm.generation.beam_search import beam_search
from edgelm.generation.constraint import ConstraintProcessor
from edgelm.generation.hooks import Hooks
from edgelm.generation.loop import generate_ids
from edgelm.generation.requests import Request
from edgelm.generation.speculative import Guesses, generate_guessed_ids
from edgelm.generation.stopping import FinishReason

SIZE = 16
END = 15
WORDS = [(3, 4, 5), (3, 4), (3, 7, 8, 9), (6,), (2, 2, 2, 2, 3)]
STOP, LENGTH = FinishReason.STOP, FinishReason.LENGTH


def held(words=WORDS, **options):
    return Hooks(logits_processor=(ConstraintProcessor(OneOf(words, **options)),))


def config(**settings):
    return GenerationConfig(**{"max_new_tokens": 12, "eos_token_id": END, **settings})


def run(configuration, words=WORDS, *, prompt=(1, 3), seed=0):
    steps = list(generate_ids(random_decoder(SIZE, seed=seed), prompt, configuration, hooks=held(words)))
    return tuple(step.token for step in steps), steps[-1].finish_reason


def is_answer(tokens, words=WORDS):
    return (tokens[:-1] if tokens[-1] == END else tokens) in words


def processor(words=WORDS, prompt_length=0, size=SIZE, **settings):
    constraint = OneOf(words, size)
    made = ConstraintProcessor(constraint).for_request(prompt_length, config(**settings), SIZE)
    return made, constraint.log


def ids(*tokens):
    return np.array(tokens, np.int64)


def kept(logits):
    return np.flatnonzero(logits != -np.inf).tolist()


ZEROS = np.zeros(SIZE, np.float32)


@given(st.integers(0, 1000), st.booleans())
def test_an_answer_is_one_of_the_words(seed, do_sample):
    tokens, reason = run(config(do_sample=do_sample, seed=seed), seed=seed)
    assert is_answer(tokens)
    assert reason == STOP


def test_where_nothing_can_follow_the_answer_ends_without_an_end_token():
    assert run(config(), [(6,)]) == ((6,), STOP)
    assert run(config(eos_token_id=()), [(6, 7)]) == ((6, 7), STOP)
    assert run(config(max_new_tokens=2), [(6, 7)]) == ((6, 7), STOP)


def test_where_something_can_follow_an_end_token_ends_it():
    apply, _ = processor()
    assert kept(apply(ids(3, 4), ZEROS)) == [5, END]
    assert kept(apply(ids(3), ZEROS)) == [4, 7]
    assert kept(apply(ids(), ZEROS)) == [2, 3, 6]
    assert not apply.is_complete(ids(3, 4), ZEROS)
    assert apply.is_complete(ids(3, 4, 5), ZEROS)


def test_a_cut_answer_is_the_beginning_of_one():
    tokens, reason = run(config(max_new_tokens=3), [(2, 3, 4, 5)])
    assert (tokens, reason) == ((2, 3, 4), LENGTH)


def test_logits_are_not_written_to():
    apply, _ = processor()
    logits = np.arange(SIZE, dtype=np.float32)
    masked = apply(ids(), logits)
    np.testing.assert_array_equal(logits, np.arange(SIZE))
    assert masked.dtype == np.float32
    assert masked[[2, 3, 6]].tolist() == [2.0, 3.0, 6.0]


@pytest.mark.parametrize("size", [8, 40])
def test_logits_may_be_wider_or_narrower_than_the_vocabulary(size):
    apply, _ = processor([(3, 7)], size=size)
    assert kept(apply(ids(3), ZEROS)) == [7]


def test_several_end_tokens_end_it_and_those_outside_the_logits_do_not_matter():
    apply, _ = processor([(6,)], eos_token_id=(14, 15, 99))
    assert kept(apply(ids(6), ZEROS)) == [14, 15]


def test_an_end_token_that_is_text_comes_only_where_the_answer_is_complete():
    apply, _ = processor([(3, END, 4), (3, END)], eos_token_id=END)
    assert kept(apply(ids(3), ZEROS)) == [END]  # it ends the second
    apply, _ = processor([(3, END, 4), (3, 4)], eos_token_id=END)
    assert kept(apply(ids(3), ZEROS)) == [4]


@settings(max_examples=200)
@given(
    st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=6), min_size=1, max_size=8),
    st.lists(st.tuples(st.integers(0, 7), st.integers(1, 6)), max_size=20),
    st.sampled_from([1, 2, 4]),
)
def test_histories_in_any_order_are_told_apart(words, visits, samples):
    apply, _ = processor(words, prompt_length=2, do_sample=True, num_return_sequences=samples)
    for word, length in visits:
        answer = words[word % len(words)][:length]
        fresh, _ = processor(words, prompt_length=2)
        history = ids(9, 9, *answer)
        np.testing.assert_array_equal(apply(history, ZEROS), fresh(history, ZEROS))
        assert apply.is_complete(history, ZEROS) == fresh.is_complete(history, ZEROS)


def test_the_plain_loop_takes_every_token_once_and_copies_nothing():
    apply, log = processor([(2,) * 10])
    begun = log.copy()
    for length in range(10):
        apply(ids(*[2] * length), ZEROS)
        apply.is_complete(ids(*[2] * (length + 1)), ZEROS)
    assert log[len(begun) :].count("advance") == 10
    assert not any(entry == "copy" or entry.startswith("rewind") for entry in log[len(begun) :])
    assert log.count("allowed") <= 11


def test_guesses_that_were_wrong_are_taken_back():
    apply, log = processor([(2, 2, 2, 2), (2, 3)])
    for length in range(4):
        apply(ids(*[2] * length), ZEROS)
    assert kept(apply(ids(2, 3), ZEROS)) == [END]
    assert log.count("rewind 2") == 1


@pytest.mark.parametrize("beams", [2, 4])
def test_beams_go_on_from_each_other_with_few_steps_each(beams):
    apply, log = processor(
        [(a, b, c, d) for a in (2, 3) for b in (2, 3) for c in (2, 3) for d in (2, 3)], num_beams=beams
    )
    histories = [()]
    for _ in range(4):
        for history in histories:
            apply(ids(*history), ZEROS)
        histories = [(*history, token) for history in histories for token in (2, 3)][:beams]
    calls = 1 + 2 + 2 * beams
    assert log.count("advance") <= calls


def test_what_other_settings_leave_nothing_of_is_said():
    with pytest.raises(NumericError, match=r"^step 2: the answer's form allows 1 tokens here, but .*min_new_tokens"):
        run(config(min_new_tokens=5), [(6,)])
    with pytest.raises(NumericError, match=r"^step 1: the answer's form allows 1 tokens here.*bad_words_ids"):
        run(config(bad_words_ids=[[6]]), [(6,)])
    with pytest.raises(NumericError, match=r"^step 1: none of the model's tokens goes on"):
        run(config(), [])


def test_a_token_that_the_form_does_not_allow_is_refused():
    apply, _ = processor()
    with pytest.raises(NumericError, match="token 9 of the answer is not one that its form allows"):
        apply(ids(9), ZEROS)


def test_an_answer_goes_on_until_its_minimum():
    tokens, _ = run(config(min_new_tokens=3), [(6,), (6, 7), (6, 7, 8)])
    assert tokens == (6, 7, 8)


def test_a_first_token_that_is_forced_is_not_part_of_the_answer():
    tokens, reason = run(config(forced_bos_token_id=11), [(6, 7)], prompt=(1,))
    assert (tokens, reason) == ((11, 6, 7), STOP)


def test_a_forced_end_does_not_end_what_is_not_complete():
    words = [(2, 3, 4, 5)]
    tokens, reason = run(config(max_new_tokens=3, forced_eos_token_id=END), words)
    assert (tokens, reason) == ((2, 3, 4), LENGTH)


@pytest.mark.parametrize("samples", [1, 3])
def test_rows_of_batches_have_each_their_own(samples):
    requests = [Request(prompt=[1, 3]), Request(prompt=[1]), Request(prompt=[1, 3, 6])]
    settings = config(do_sample=True, num_return_sequences=samples, seed=4)
    answers = {}
    for row, step in generate_batch_ids(table_decoder(SIZE), requests, settings, hooks=held()):
        answers.setdefault(row, []).append(step)
    assert len(answers) == 3 * samples
    for steps in answers.values():
        assert is_answer(tuple(step.token for step in steps))
        assert steps[-1].finish_reason == STOP


@pytest.mark.parametrize(
    "options", [{}, {"do_sample": True, "seed": 2}, {"num_beam_groups": 2, "diversity_penalty": 1.0}]
)
def test_beams_end_with_words(options):
    settings = config(num_beams=4, num_return_sequences=3, **options)
    requests = [Request(prompt=[1, 3]), Request(prompt=[2])]
    own = held().logits_processor
    found = beam_search(table_decoder(SIZE), requests, settings, processors=own)
    for hypotheses in found:
        for hypothesis in hypotheses:
            if hypothesis.tokens:
                assert is_answer(hypothesis.tokens)
                assert hypothesis.finish_reason == STOP
        assert hypotheses[0].tokens


def test_beams_need_an_end_token():
    for ends in ((), (99,)):
        with pytest.raises(ConfigError, match=r"beams need a token that ends an answer \(eos_token_id\)"):
            processor(num_beams=2, eos_token_id=ends)


class Wrong:
    """Guesses tokens, right and wrong ones."""

    def __init__(self, seed):
        self._random = np.random.default_rng(seed)

    def guess(self, ids, most):
        return Guesses(self._random.choice([2, 3, 4, 7, 8], min(most, 4)).astype(np.int64))


@given(st.integers(0, 200), st.booleans())
def test_guesses_change_nothing(seed, do_sample):
    settings = config(do_sample=do_sample, seed=seed)
    expected = run(settings, seed=seed)
    decoder = random_decoder(SIZE, seed=seed)
    steps = list(generate_guessed_ids(decoder, (1, 3), settings, Wrong(seed), hooks=held()))
    assert (tuple(step.token for step in steps), steps[-1].finish_reason) == expected
