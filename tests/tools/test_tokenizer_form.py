"""Tokenizers in the form that is read soonest: the same ids, and other files left as they are."""

from __future__ import annotations

import json
from typing import Any

import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from support import tokenizers as build

from edgelm_tools.tokenizer_form import quick_to_read

BPE = build.byte_level().to_str().encode()
QUICK = quick_to_read(BPE)


def with_merges(merges: list[Any], **changes: Any) -> bytes:
    tokens = ["a", "b", "ab", " ", "a b", "#version", "#versiona", "\ud800"]
    vocabulary = {token: place for place, token in enumerate(tokens)}
    return json.dumps(
        {"version": "1.0", "model": {"type": "BPE", "vocab": vocabulary, "merges": merges} | changes}
    ).encode()


def test_merges_become_one_string_each() -> None:
    pairs = json.loads(BPE)["model"]["merges"]
    assert {type(pair) for pair in pairs} == {list}, "as the library writes them"
    file = json.loads(QUICK)
    assert file["model"]["merges"] == [" ".join(pair) for pair in pairs]
    file["model"]["merges"] = pairs
    assert file == json.loads(BPE), "and nothing else is changed"
    assert quick_to_read(QUICK) == QUICK


@given(st.text(max_size=60) | st.sampled_from(build.SENTENCES))
def test_ids_are_the_same(text: str) -> None:
    before, after = (tokenizers.Tokenizer.from_buffer(data) for data in (BPE, QUICK))
    text = text.encode("utf-8", "ignore").decode()
    assert after.encode(text).ids == before.encode(text).ids


@pytest.mark.parametrize(
    "data",
    [
        build.unigram().to_str().encode(),
        build.word_piece().to_str().encode(),
        with_merges([["a", "b"], ["a", " "]]),
        with_merges([["#version", "a"]]),
        with_merges([["a", "b", "a"]]),
        with_merges([["a", ""]]),
        with_merges(["a b"]),
        with_merges([["a", "b"]]),
        b"[]",
        b'{"model": null}',
    ],
    ids=[
        "unigram",
        "word piece",
        "a space",
        "a version",
        "three",
        "an empty one",
        "strings",
        "a lone surrogate",
        "list",
        "none",
    ],
)
def test_what_has_no_such_form_is_left_as_it_is(data: bytes) -> None:
    assert quick_to_read(data) == data
