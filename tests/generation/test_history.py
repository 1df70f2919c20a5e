from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgelm.errors import PromptError
from edgelm.generation.history import TokenHistory, check_prompt


@given(st.lists(st.integers(0, 9), min_size=1), st.lists(st.integers(0, 9)))
@settings(deadline=None)
def test_a_history_is_prompt_and_answer(prompt, answer):
    history = TokenHistory(np.array(prompt, np.int64), len(answer))
    views = [history.ids]
    for token in answer:
        assert not history.is_full
        history.append(token)
        views.append(history.ids)
    assert history.is_full
    assert [view.tolist() for view in views] == [prompt + answer[:n] for n in range(len(answer) + 1)]


def test_a_history_is_read_only_and_not_copied():
    history = TokenHistory(np.array([1, 2], np.int64), 2)
    first = history.ids
    history.append(3)
    assert np.shares_memory(first, history.ids)
    with pytest.raises(ValueError, match="read-only"):
        history.ids[0] = 5


@pytest.mark.parametrize("ids", [[0, 9], (0, 9), range(3), np.array([0, 9]), np.array([9], np.uint8), [np.int32(4)]])
def test_prompts_of_integers_are_taken(ids):
    prompt = check_prompt(ids, 10)
    assert prompt.dtype == np.int64
    assert prompt.tolist() == [int(token) for token in ids]


def test_a_prompt_is_copied():
    given_ids = np.array([1, 2], np.int64)
    prompt = check_prompt(given_ids, 10)
    given_ids[0] = 7
    assert prompt.tolist() == [1, 2]


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ([], r"the prompt is empty"),
        (np.zeros(0, np.int64), r"the prompt is empty"),
        (np.zeros((1, 3), np.int64), r"must be one-dimensional, not of shape \(1, 3\)"),
        ([1, -1], r"position 1 is -1; token ids are from 0 to 9"),
        ([10], r"position 0 is 10; token ids are from 0 to 9"),
        (np.array([3, 4, 10]), r"position 2 is 10; token ids are from 0 to 9"),
        ([2**70], r"position 0 is 1180591620717411303424; token ids are from 0 to 9"),
        ([1, 2.0], r"position 1 is 2.0; token ids are integers"),
        (np.array([1.0]), r"position 0 is .*1.0.*; token ids are integers"),
        ([True], r"position 0 is True; token ids are integers"),
        (np.array([True]), r"position 0 is .*True.*; token ids are integers"),
        (np.array([3, -1, 10], np.int32), r"position 1 is -1; token ids are from 0 to 9"),
        ("ab", "the prompt must be a text or a list of token ids, not str"),
        (b"ab", "must be a text or a list of token ids, not bytes"),
        (None, "must be a text or a list of token ids, not NoneType"),
        (5, "must be a text or a list of token ids, not int"),
        ({1, 2}, "must be a text or a list of token ids, not set"),
        ({1: 2}, "must be a text or a list of token ids, not dict"),
        (iter([1]), "must be a text or a list of token ids, not list_iterator"),
        ([[1, 2]], r"position 0 is \[1, 2\]; token ids are integers"),
        ([0, None], r"position 1 is None; token ids are integers"),
    ],
)
def test_bad_prompts_name_position_and_value(ids, message):
    with pytest.raises(PromptError, match=message):
        check_prompt(ids, 10)
