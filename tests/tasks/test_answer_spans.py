"""Start and end logits become answers."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgelm.tasks.answer_spans import Answer, Window, best_answers, best_spans

CONTEXT = "alpha beta gamma delta"
# The question's two tokens lie between the first token and the document's, as in BERT.
WORDS = (None, None, None, 0, 0, 1, 2, 3, None)
OFFSETS = ((0, 0), (0, 3), (0, 0), (0, 2), (2, 5), (6, 10), (11, 16), (17, 22), (0, 0))


def window(start: dict[int, float], end: dict[int, float]) -> Window:
    """A window over ``CONTEXT`` with these logits, and 0 elsewhere."""
    starts, ends = np.zeros(len(WORDS), np.float32), np.zeros(len(WORDS), np.float32)
    for logits, values in ((starts, start), (ends, end)):
        for place, value in values.items():
            logits[place] = value
    candidates = np.array([True, False, False, *[True] * 5, False])
    return Window(starts, ends, candidates, OFFSETS, WORDS)


def test_the_likeliest_span_is_the_answer() -> None:
    (answer,) = best_answers([window({5: 9.0}, {6: 9.0})], CONTEXT)
    assert (answer.answer, answer.start, answer.end) == ("beta gamma", 6, 16)
    assert answer.score == pytest.approx(1, abs=0.01)
    assert answer.as_dict() == {"score": answer.score, "start": 6, "end": 16, "answer": "beta gamma"}


def test_an_answer_is_extended_to_whole_words_unless_told_otherwise() -> None:
    within = window({4: 9.0}, {4: 9.0})
    assert best_answers([within], CONTEXT)[0].answer == "alpha"
    assert best_answers([within], CONTEXT, align_to_words=False)[0].answer == "pha"


def test_tokens_without_words_keep_their_own_borders() -> None:
    plain = window({4: 9.0}, {4: 9.0})
    wordless = Window(plain.start_logits, plain.end_logits, plain.candidates, OFFSETS, (None,) * len(WORDS))
    assert best_answers([wordless], CONTEXT)[0].answer == "pha"


def test_the_question_is_no_answer() -> None:
    assert best_answers([window({1: 50.0, 5: 3.0}, {1: 50.0, 5: 3.0})], CONTEXT)[0].answer == "beta"


def test_an_answer_is_no_longer_than_allowed() -> None:
    wide = window({3: 9.0}, {7: 9.0})
    assert best_answers([wide], CONTEXT, max_answer_len=5)[0].answer == CONTEXT
    assert best_answers([wide], CONTEXT, max_answer_len=4)[0].answer != CONTEXT


def test_no_answer_competes_only_when_allowed_with_its_least_score() -> None:
    sure, unsure = window({0: 9.0}, {0: 9.0}), window({0: 1.0, 5: 2.0}, {0: 1.0, 5: 2.0})
    assert best_answers([sure], CONTEXT)[0].answer
    assert best_answers([sure], CONTEXT, no_answer=True)[0] == Answer(pytest.approx(1, abs=0.01), 0, 0, "")
    assert best_answers([sure, unsure], CONTEXT, no_answer=True)[0].answer == "beta"


def test_the_same_text_in_two_windows_is_one_answer_with_both_scores() -> None:
    one = window({5: 1.0}, {5: 1.0})
    single, double = best_answers([one], CONTEXT)[0], best_answers([one, one], CONTEXT)[0]
    assert double.score == pytest.approx(2 * single.score)
    assert double.answer == single.answer


logits = st.lists(st.floats(-8, 8, width=32), min_size=2, max_size=9)


@given(st.data(), logits, st.integers(1, 12), st.integers(1, 9))
def test_spans_are_those_of_trying_all(data: st.DataObject, start: list[float], count: int, longest: int) -> None:
    size = len(start)
    end = data.draw(st.lists(st.floats(-8, 8, width=32), min_size=size, max_size=size))
    inner = data.draw(st.lists(st.booleans(), min_size=size - 1, max_size=size - 1))
    candidates = np.array([True, *inner])
    given_ = Window(
        np.array(start, np.float32), np.array(end, np.float32), candidates, [(i, i + 1) for i in range(size)], WORDS
    )
    spans, empty = best_spans(given_, count, longest)
    p = [np.exp(v - np.max(v[candidates])) * candidates for v in (np.array(start), np.array(end))]
    starts, ends = (v / v.sum() for v in p)
    possible = [
        starts[i] * ends[j]
        for i in range(1, size)
        for j in range(i, min(i + longest, size))
        if candidates[i] and candidates[j]
    ]
    scores = [span.score for span in spans if span.score > 0]
    assert scores == pytest.approx(sorted(possible, reverse=True)[:count], rel=1e-4, abs=1e-9)
    assert empty == pytest.approx(starts[0] * ends[0], rel=1e-4)
    for span in spans:
        assert candidates[span.first]
        assert candidates[span.last]
        if span.score > 0:
            assert span.first <= span.last < span.first + longest


@given(st.lists(st.floats(-4, 4, width=32), min_size=18, max_size=18), st.integers(1, 6), st.booleans())
def test_answers_are_stretches_of_the_document_best_first(values: list[float], top_k: int, no_answer: bool) -> None:
    made = window(dict(enumerate(values[:9])), dict(enumerate(values[9:])))
    answers = best_answers([made], CONTEXT, top_k=top_k, no_answer=no_answer)
    assert 0 < len(answers) <= top_k
    assert [a.score for a in answers] == sorted((a.score for a in answers), reverse=True)
    assert all(CONTEXT[a.start : a.end] == a.answer for a in answers)
    texts = [a.answer for a in answers if a.answer]
    assert len(set(texts)) == len(texts)
