from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgelm.errors import ConfigError
from edgelm.text.stop_strings import StopMatcher

# Few letters, so that stops overlap and half-match often.
LETTERS = st.sampled_from("ab🌍")
STOPS = st.lists(st.text(LETTERS, min_size=1, max_size=4), max_size=4).map(tuple)
CHUNKS = st.lists(st.text(LETTERS, max_size=5), max_size=8)


def cut(text: str, stops: tuple[str, ...]) -> tuple[str, bool]:
    """The definition, letter by letter: the first stop to be complete, the earliest start among equals."""
    for end in range(1, len(text) + 1):
        starts = [end - len(stop) for stop in stops if text[:end].endswith(stop)]
        if starts:
            return text[: min(starts)], True
    return text, False


def run(stops: tuple[str, ...], chunks: list[str]) -> tuple[str, bool]:
    matcher = StopMatcher(stops)
    released, stopped = "", False
    for chunk in chunks:
        piece, stopped = matcher.push(chunk)
        released += piece
    return released + matcher.finish(), stopped


@given(STOPS, CHUNKS)
def test_released_text_is_the_text_cut_at_the_first_stop(stops: tuple[str, ...], chunks: list[str]) -> None:
    assert run(stops, chunks) == cut("".join(chunks), stops)


@given(STOPS, CHUNKS)
def test_nothing_is_held_that_cannot_become_a_stop(stops: tuple[str, ...], chunks: list[str]) -> None:
    matcher = StopMatcher(stops)
    released = ""
    for i, chunk in enumerate(chunks):
        piece, stopped = matcher.push(chunk)
        released += piece
        if stopped:
            return
        held = "".join(chunks[: i + 1])[len(released) :]
        assert not held or any(stop.startswith(held) and stop != held for stop in stops)


@given(st.text(LETTERS, max_size=20), STOPS)
def test_one_letter_at_a_time_equals_all_at_once(text: str, stops: tuple[str, ...]) -> None:
    assert run(stops, list(text)) == run(stops, [text])


def test_a_stop_across_pieces_cuts_exactly() -> None:
    matcher = StopMatcher(("\nUser:",))
    assert matcher.push("Hello.\nUs") == ("Hello.", False)
    assert matcher.push("er: bye") == ("", True)
    assert matcher.push("more") == ("", True)
    assert matcher.finish() == ""


def test_a_false_alarm_is_released() -> None:
    matcher = StopMatcher(("</s>",))
    assert matcher.push("a <") == ("a ", False)
    assert matcher.push("/b") == ("</b", False)
    assert matcher.push("</") == ("", False)
    assert matcher.finish() == "</"


def test_without_stops_text_passes() -> None:
    assert StopMatcher(()).push("text") == ("text", False)


def test_an_empty_stop_is_refused() -> None:
    with pytest.raises(ConfigError, match="at least one character"):
        StopMatcher(("a", ""))
