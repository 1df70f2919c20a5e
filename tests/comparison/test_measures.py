"""Measures of texts: those of the libraries that everybody compares with."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgelm.comparison.measures import distinct, repetition
from edgelm.comparison.overlap import chrf, overlap, rouge_l, rouge_n

# As rouge-score 0.1.2 (F1, no stemmer) and sacreBLEU 2.6.0 (chrF2, one sentence) print them.
REFERENCE = (
    ("The cat sat on the mat.", "A cat was sitting on the mat.", 0.615385, 0.363636, 0.615385, 39.784852),
    ("the the the the", "the cat", 0.333333, 0.0, 0.333333, 17.868922),
    ("It's 3.5 km to St. John's", "it is 3.5 km to st johns", 0.705882, 0.533333, 0.705882, 42.188954),
    ("", "nothing", 0.0, 0.0, 0.0, 0.0),
    ("same words here", "same words here", 1.0, 1.0, 1.0, 100.0),
    ("b a c d", "a b c d e", 0.888889, 0.285714, 0.666667, 27.415144),
    ("O gerente está viajando.", "O gerente está de viagem.", 0.666667, 0.571429, 0.666667, 57.442657),
)
WORDS = st.lists(st.sampled_from("abcd"), max_size=12).map(" ".join)


@pytest.mark.parametrize(("text", "reference", "one", "two", "longest", "characters"), REFERENCE)
def test_overlap_is_that_of_the_libraries(
    text: str, reference: str, one: float, two: float, longest: float, characters: float
) -> None:
    found = overlap(text, [reference])
    assert found is not None
    assert (found.rouge_1, found.rouge_2, found.rouge_l) == pytest.approx((one, two, longest), abs=1e-6)
    assert 100 * found.chrf == pytest.approx(characters, abs=1e-5)


def longest_common(ours: list[str], theirs: list[str]) -> int:
    """The textbook's table."""
    table = [[0] * (len(theirs) + 1) for _ in range(len(ours) + 1)]
    for i, a in enumerate(ours):
        for j, b in enumerate(theirs):
            table[i + 1][j + 1] = table[i][j] + 1 if a == b else max(table[i][j + 1], table[i + 1][j])
    return table[-1][-1]


@given(WORDS, WORDS)
def test_rouge_l_counts_the_longest_common_subsequence(ours: str, theirs: str) -> None:
    total = len(ours.split()) + len(theirs.split())
    expected = 2 * longest_common(ours.split(), theirs.split()) / total if total else 0.0
    assert rouge_l(ours, theirs) == pytest.approx(expected)


@given(WORDS, WORDS)
def test_laws_of_overlap(ours: str, theirs: str) -> None:
    for measure in (lambda a, b: rouge_n(a, b, 1), lambda a, b: rouge_n(a, b, 2), rouge_l, chrf):
        assert 0 <= measure(ours, theirs) <= 1
    assert rouge_n(ours, theirs, 1) == rouge_n(theirs, ours, 1)
    assert rouge_l(ours, theirs) <= rouge_n(ours, theirs, 1) + 1e-12
    assert chrf(ours, ours) == pytest.approx(1.0 if ours else 0.0)


def test_letters_of_every_alphabet_count() -> None:
    assert rouge_n("Встреча в четверг", "встреча во вторник", 1) == pytest.approx(1 / 3)


def test_of_several_references_the_best_counts() -> None:
    found = overlap("a b", ["c", "a b", "a"])
    assert found is not None
    assert (found.rouge_1, found.rouge_2, found.chrf) == pytest.approx((1, 1, 1))
    assert overlap("a b", []) is None


@given(st.lists(st.integers(0, 3), max_size=30), st.integers(1, 5))
def test_distinct_counts_different_n_grams(tokens: list[int], n: int) -> None:
    grams = [tuple(tokens[i : i + n]) for i in range(len(tokens)) if i + n <= len(tokens)]
    share = distinct(tokens, n)
    assert share == (len(set(grams)) / len(grams) if grams else None)


def test_repetition_is_the_share_of_4_grams_that_came_before() -> None:
    assert repetition([1, 2, 3]) is None
    assert repetition([1, 2, 3, 4, 5]) == 0
    assert repetition([1, 2, 3, 4] * 2) == pytest.approx(1 / 5)
    assert repetition([7] * 10) == pytest.approx(6 / 7)
