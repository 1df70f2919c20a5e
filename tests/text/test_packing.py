"""Parts of a text: nothing is lost, none is too long, none shorter than need be."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgelm.errors import ContextLengthError
from edgelm.text.packing import pack

PIECES = st.lists(st.text(st.sampled_from("ab é🙂\n "), min_size=1, max_size=30), max_size=12)


def letters(text: str) -> int:
    return len(text)


def rounded(text: str) -> int:
    """Longer apart than together, as tokens often are."""
    return -(-len(text) // 3)


@given(PIECES, st.integers(1, 40), st.sampled_from([letters, rounded]))
def test_parts_are_the_whole_text_and_fit(pieces: list[str], limit: int, size: object) -> None:
    assert callable(size)
    parts = pack(pieces, size, limit)
    assert "".join(parts) == "".join(pieces)
    assert all(0 < size(part) <= limit for part in parts)


@given(PIECES, st.integers(30, 60))
def test_neighbours_that_fit_are_joined(pieces: list[str], limit: int) -> None:
    parts = pack(pieces, letters, limit)
    ends = {sum(map(len, pieces[:count])) for count in range(len(pieces) + 1)}
    place = 0
    for part in parts[:-1]:
        place += len(part)
        assert place in ends  # no piece is above the limit, so none is cut
        first = next(end for end in sorted(ends) if end > place) - place
        assert len(part) + first > limit


def test_texts_longer_together_than_apart_fit_too() -> None:
    def squares(text: str) -> int:
        return len(text) ** 2

    assert pack(["a", "b", "c", "d"], squares, 4) == ["ab", "cd"]


def test_long_pieces_are_cut_between_words() -> None:
    assert pack(["one two three ", "four"], letters, 8) == ["one two ", "three ", "four"]
    assert pack(["incomprehensible"], letters, 6) == ["incomp", "rehens", "ible"]


def test_an_impossible_limit_is_refused() -> None:
    with pytest.raises(ContextLengthError, match="above the limit of 0"):
        pack(["a"], letters, 0)


@pytest.mark.parametrize("text", ["word " * 5000, "unbroken" * 3000])
def test_what_is_measured_grows_with_the_text_and_not_with_its_square(text: str) -> None:
    measured = 0

    def tokens(part: str) -> int:
        nonlocal measured
        measured += len(part)
        return rounded(part)

    assert "".join(pack([text], tokens, 1000)) == text
    assert measured < 50 * len(text)
