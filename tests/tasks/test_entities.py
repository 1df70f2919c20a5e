"""Tokens with label probabilities become entities."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgelm.errors import ConfigError
from edgelm.tasks.entities import (
    AGGREGATIONS,
    Aggregation,
    Entity,
    ScoredToken,
    continues_word,
    find_entities,
    join_windows,
    without_overlaps,
)

LABELS = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC", "MISC-X")
# (text, continues the word before, label, probability of that label)
Row = tuple[str, bool, str, float]


def tokens(*rows: Row) -> list[ScoredToken]:
    """Tokens whose text is theirs but for ``##``; a space lies between words."""
    made: list[ScoredToken] = []
    end = 0
    for index, (text, goes_on, label, score) in enumerate(rows):
        start = end if goes_on or not made else end + 1
        end = start + len(text)
        scores = np.full(len(LABELS), (1 - score) / (len(LABELS) - 1), np.float32)
        scores[LABELS.index(label)] = score
        made.append(ScoredToken(f"##{text}" if goes_on else text, start, end, index + 1, goes_on, scores))
    return made


def join(words: list[str]) -> str:
    return " ".join(words).replace(" ##", "")


def found(rows: list[Row], aggregation: Aggregation, **settings: Any) -> list[tuple[str, str, int, int]]:
    entities = find_entities(tokens(*rows), LABELS, aggregation=aggregation, join=join, **settings)
    return [(entity.label, entity.word, entity.start, entity.end) for entity in entities]


DISAGREEING: list[Row] = [
    ("Micro", False, "B-PER", 0.6),
    ("soft", True, "I-LOC", 0.9),
    ("Corp", False, "I-LOC", 0.7),
    ("is", False, "O", 0.9),
]


def test_none_labels_each_token_and_says_its_place() -> None:
    (first, *_) = find_entities(tokens(*DISAGREEING), LABELS, join=join)
    assert first.as_dict() == pytest.approx(
        {"entity": "B-PER", "score": 0.6, "index": 1, "word": "Micro", "start": 0, "end": 5}
    )
    assert [label for label, *_ in found(DISAGREEING, "none")] == ["B-PER", "I-LOC", "I-LOC"]


def test_simple_splits_words_where_their_tokens_disagree() -> None:
    assert found(DISAGREEING, "simple") == [("PER", "Micro", 0, 5), ("LOC", "##soft Corp", 5, 14)]


@pytest.mark.parametrize(
    ("aggregation", "expected"),
    [
        ("first", [("PER", "Microsoft", 0, 9), ("LOC", "Corp", 10, 14)]),
        ("average", [("LOC", "Microsoft Corp", 0, 14)]),
        ("max", [("LOC", "Microsoft Corp", 0, 14)]),
    ],
)
def test_words_get_one_label(aggregation: Aggregation, expected: list[tuple[str, str, int, int]]) -> None:
    assert found(DISAGREEING, aggregation) == expected


def test_a_group_has_the_mean_score_and_no_place() -> None:
    entities = find_entities(
        tokens(("New", False, "B-LOC", 0.9), ("York", False, "I-LOC", 0.7)), LABELS, aggregation="simple", join=join
    )
    (entity,) = entities
    assert entity.as_dict() == pytest.approx(
        {"entity_group": "LOC", "score": 0.8, "word": "New York", "start": 0, "end": 8}
    )


def test_b_starts_an_entity_and_i_continues_one() -> None:
    rows: list[Row] = [("a", False, "B-PER", 0.9), ("b", False, "I-PER", 0.9), ("c", False, "B-PER", 0.9)]
    assert found(rows, "simple") == [("PER", "a b", 0, 3), ("PER", "c", 4, 5)]


def test_labels_without_b_and_i_continue_and_lose_what_precedes_their_hyphen() -> None:
    rows: list[Row] = [("a", False, "MISC-X", 0.9), ("b", False, "MISC-X", 0.9)]
    assert found(rows, "simple") == [("X", "a b", 0, 3)]


def test_ignored_labels_are_those_of_the_result() -> None:
    rows: list[Row] = [("a", False, "B-PER", 0.9), ("b", False, "O", 0.9)]
    assert found(rows, "simple", ignore_labels=("PER",)) == [("O", "b", 2, 3)]
    assert found(rows, "none", ignore_labels=("PER",)) == [("B-PER", "a", 0, 1), ("O", "b", 2, 3)]
    assert len(found(rows, "none", ignore_labels=())) == 2


def test_another_aggregation_is_refused() -> None:
    with pytest.raises(ConfigError, match="aggregation is 'mean'; it may be none, simple, first, average, max"):
        find_entities([], LABELS, aggregation="mean", join=join)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "token", "start", "end", "marks", "expected"),
    [
        ("playing", "##ing", 4, 7, True, True),
        ("playing", "play", 0, 4, True, False),
        ("cafés", "caf", 0, 3, False, False),
        ("a-b", "-", 1, 2, False, True),  # no spaces: one word
        ("a b", "b", 2, 3, False, False),
        ("a b", "Ġb", 1, 3, False, False),  # an offset that takes the space in
    ],
)
def test_where_words_go_on(text: str, token: str, start: int, end: int, marks: bool, expected: bool) -> None:
    assert continues_word(text, token, start, end, marks_continuation=marks) is expected


rows_strategy = st.lists(
    st.tuples(st.sampled_from(["a", "bc", "def"]), st.booleans(), st.sampled_from(LABELS), st.floats(0.3, 1.0)),
    max_size=12,
)


@given(rows_strategy, st.sampled_from(AGGREGATIONS))
def test_unfiltered_entities_cover_the_tokens_in_order(rows: list[Row], aggregation: Aggregation) -> None:
    made = tokens(*rows)
    entities = find_entities(made, LABELS, aggregation=aggregation, ignore_labels=(), join=join)
    ends = [0, *(entity.end for entity in entities)]
    assert all(entity.start >= end for entity, end in zip(entities, ends, strict=False))
    assert [e.start for e in entities[:1]] == [t.start for t in made[:1]]
    assert [e.end for e in entities[-1:]] == [t.end for t in made[-1:]]
    if aggregation in ("none", "simple"):
        assert sum(e.end - e.start for e in entities) >= sum(len(text) for text, *_ in rows)
    assert all(0 < entity.score <= 1 + 1e-6 for entity in entities)


@given(rows_strategy, st.sampled_from(AGGREGATIONS[2:]))
def test_no_entity_ends_within_a_word(rows: list[Row], aggregation: Aggregation) -> None:
    made = tokens(*rows)
    starts = {token.start for i, token in enumerate(made) if i == 0 or not token.continues_word}
    for entity in find_entities(made, LABELS, aggregation=aggregation, ignore_labels=(), join=join):
        assert entity.start in starts
        assert entity.end not in {token.start for token in made if token.continues_word}


@given(rows_strategy, st.sampled_from(AGGREGATIONS), st.sets(st.sampled_from([*LABELS, "PER", "LOC", "X"])))
def test_ignoring_labels_takes_those_entities_away_and_no_others(
    rows: list[Row], aggregation: Aggregation, ignored: set[str]
) -> None:
    whole = found(rows, aggregation, ignore_labels=())
    assert found(rows, aggregation, ignore_labels=ignored) == [e for e in whole if e[0] not in ignored]


entities_strategy = st.lists(
    st.builds(
        lambda start, length, score: Entity("PER", score, "w", start, start + length),
        st.integers(0, 30),
        st.integers(1, 6),
        st.floats(0, 1),
    ),
    max_size=10,
)


@given(entities_strategy)
def test_what_is_left_of_overlapping_entities_does_not_overlap(entities: list[Entity]) -> None:
    kept = without_overlaps(entities)
    assert all(entity in entities for entity in kept)
    assert all(b.start >= a.end for a, b in pairwise(kept))
    assert bool(kept) == bool(entities)
    assert without_overlaps(kept) == kept


def test_the_longest_of_overlapping_entities_is_kept_then_the_likeliest() -> None:
    short, long_, likely = (Entity("A", s, "w", b, e) for s, b, e in ((0.9, 0, 3), (0.1, 1, 6), (0.2, 2, 7)))
    assert without_overlaps([short, long_]) == [long_]
    assert without_overlaps([long_, likely]) == [likely]


@given(st.integers(1, 40), st.integers(1, 9), st.integers(0, 8), st.data())
def test_joined_windows_are_the_whole_and_each_token_has_most_context(
    length: int, room: int, overlap: int, data: st.DataObject
) -> None:
    step = max(1, room - overlap)
    starts = [0]
    while starts[-1] + room < length:
        starts.append(starts[-1] + step)
    # Each score says which window it is from, and of which token.
    windows = [
        (s, np.array([[w, t] for t in range(s, min(s + room, length))], np.float32)) for w, s in enumerate(starts)
    ]
    joined = join_windows(windows)
    assert joined[:, 1].tolist() == list(range(length))
    token = data.draw(st.integers(0, length - 1))

    def context(window: int) -> int:
        first = starts[window]
        last = min(first + room, length) - 1
        if not first <= token <= last:
            return -1
        return min(token - first if first else length, last - token if last < length - 1 else length)

    assert context(int(joined[token, 0])) == max(map(context, range(len(starts))))
