from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgelm.generation.speculative_gain import Chance, best_length, run_cost
from edgelm.generation.speculative_lookup import NGramGuesser

PASSAGE = list(range(100, 140))


def guess(guesser, ids, most=100):
    return guesser.guess(np.array(ids, np.int64), most).tokens.tolist()


def test_what_followed_the_latest_tokens_before_is_guessed():
    guesses = guess(NGramGuesser(), [*PASSAGE, 1, 2, *PASSAGE[4:20]])
    assert guesses == PASSAGE[20 : 20 + len(guesses)]
    assert len(guesses) > 4


def test_without_a_repetition_nothing_is_guessed():
    assert guess(NGramGuesser(), range(50)) == []
    assert guess(NGramGuesser(), [7]) == []
    assert guess(NGramGuesser(), [7, 8, 7]) == []  # a single token says too little


def test_the_longest_stretch_goes_before_a_later_shorter_one():
    guesses = guess(NGramGuesser(), [1, 2, 3, 4, 50, 51, 9, 3, 4, 60, 61, 1, 2, 3, 4])
    assert guesses[0] == 50


def test_of_equal_stretches_the_latest_counts():
    guesses = guess(NGramGuesser(), [1, 2, 3, 50, 51, 1, 2, 3, 60, 61, 9, 1, 2, 3])
    assert guesses[0] == 60


def test_a_loop_is_guessed_beyond_its_own_end():
    guesses = guess(NGramGuesser(), [5, 6, 7] * 8)
    assert guesses == ([5, 6, 7] * 8)[: len(guesses)]
    assert len(guesses) > 3


@pytest.mark.parametrize("most", [0, 1, 2])
def test_no_more_is_guessed_than_asked_for(most):
    assert len(guess(NGramGuesser(), [*PASSAGE, *PASSAGE[:20]], most)) == most
    assert len(guess(NGramGuesser(most=2), [*PASSAGE, *PASSAGE[:20]])) == 2


def test_the_length_grows_with_right_guesses():
    guesser, answer = NGramGuesser(), [*PASSAGE, 1, *PASSAGE[:3]]
    lengths = []
    for end in range(3, 30):
        lengths.append(len(guess(guesser, [*answer, *PASSAGE[3:end]])))
    assert lengths[0] < lengths[8] <= lengths[-1]
    assert lengths[-1] >= 12


def test_wrong_guesses_stop_it_and_repetition_starts_it_again():
    rng = np.random.default_rng(0)
    guesser, ids = NGramGuesser(), []
    for _ in range(60):  # each pair comes again and again, but never with the same token behind it
        ids += [1, 2, int(rng.integers(1000, 10**9))]
        tried = guess(guesser, ids[:-1])
    assert tried == []
    for _ in range(8):
        ids += PASSAGE
        for end in range(len(ids) - 39, len(ids) + 1):
            tried = guess(guesser, ids[:end])
    assert len(tried) > 4


@given(st.lists(st.integers(0, 3), min_size=1, max_size=200), st.lists(st.integers(1, 9), min_size=1, max_size=60))
@settings(deadline=None)
def test_guesses_do_not_depend_on_a_clock_and_are_tokens_that_came(ids, strides):
    first, second = NGramGuesser(), NGramGuesser()
    end = 0
    for stride in strides:
        end = min(end + stride, len(ids))
        made = guess(first, ids[:end], 16)
        assert made == guess(second, ids[:end], 16)
        assert set(made) <= set(ids[:end])


def test_length_follows_chances():
    assert best_length([0.0] * 9, 9) == 0
    assert best_length([1.0] * 9, 9) == 9
    assert best_length([1.0] * 9, 4) == 4
    assert best_length([1.0, 0.0, 1.0], 3) == 1
    assert best_length([0.1] * 9, 9) == 0
    assert best_length([1.0] * 9, 9, guess_cost=1.0) == 0
    assert best_length([0.9] * 16, 16, guess_cost=0.3) < best_length([0.9] * 16, 16)


@given(st.lists(st.floats(0, 1), max_size=12), st.floats(0, 2))
def test_no_other_length_is_better(chances, cost):
    def speed(length):
        return (1 + sum(np.prod(chances[: k + 1]) for k in range(length))) / (run_cost(1 + length) + cost * length)

    length = best_length(chances, len(chances), guess_cost=cost)
    assert all(speed(length) * 1.04 > speed(other) for other in range(len(chances) + 1))


def test_a_chance_approaches_what_happens():
    chance = Chance(0.5, 4)
    for _ in range(30):
        chance.update(True)
    assert chance.value > 0.99
    chance.update(False)
    assert chance.value == pytest.approx(0.75, abs=0.01)
