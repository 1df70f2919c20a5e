"""Calls in answers, in each family's form, however the answer is split; and answers that are none."""

from __future__ import annotations

import json
import time
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgelm.tool_calls.parsing import MAX_CALL_CHARS, MAX_CALLS, MISTRAL, PYTHON_TAG, STYLES, TAGGED, Style, styles_of
from edgelm.tool_calls.scanner import CallScanner

NAMES = ("f", "g")
Found = tuple[str, list[tuple[str, dict[str, Any]]]]


def scan(pieces: list[str], styles: tuple[Style, ...] = STYLES) -> Found:
    scanner = CallScanner(styles, NAMES)
    text = "".join([*map(scanner.push, pieces), scanner.finish()])
    return text, [(call.name, call.arguments) for call in scanner.calls]


F, G = ("f", {"a": 1}), ("g", {})

CALLS = [
    # Hermes, Qwen
    ('<tool_call>\n{"name": "f", "arguments": {"a": 1}}\n</tool_call>', "", [F]),
    ('Let me see.\n<tool_call>{"name": "f", "arguments": {"a": 1}}</tool_call>', "Let me see.", [F]),
    ('<tool_call>{"name": "f", "arguments": {"a": 1}}</tool_call>\n<tool_call>{"name": "g"}</tool_call>', "", [F, G]),
    ('<tool_call>{"name": "g", "arguments": {}}</tool_call> and now', " and now", [G]),
    ('<tool_call>{"name": "f", "arguments": {"a": 1}}', "", [F]),
    ('<tool_call>{"name": "f", "arguments": "{\\"a\\": 1}"}</tool_call>', "", [F]),
    ('<tool_call>{"name": "f", "arguments": {"a": "</tool_call>"}}</tool_call>.', ".", [("f", {"a": "</tool_call>"})]),
    ('<tool_call>{"function": {"name": "f", "parameters": {"a": 1}}}</tool_call>', "", [F]),
    # SmolLM2
    (
        '<tool_call>[\n{"name": "f", "arguments": {"a": 1}},\n{"name": "g", "arguments": null}\n]</tool_call>',
        "",
        [F, G],
    ),
    ("<tool_call>[]</tool_call>", "", []),
    # Mistral
    ('[TOOL_CALLS] [{"name": "f", "arguments": {"a": 1}}, {"name": "g", "arguments": {}}]', "", [F, G]),
    ('[TOOL_CALLS]f[ARGS]{"a": 1}[TOOL_CALLS]g[CALL_ID]abc123def[ARGS]{}', "", [F, G]),
    ('[TOOL_CALLS]f{"a": 1}', "", [F]),
    # Llama 3
    ('<|python_tag|>{"name": "f", "parameters": {"a": 1}}', "", [F]),
    ('<|python_tag|>{"name": "f", "parameters": {"a": 1}}; {"name": "g", "parameters": {}}', "", [F, G]),
    ('{"name": "f", "parameters": {"a": 1}}', "", [F]),
    ('\n{"type": "function", "name": "f", "parameters": {"a": 1}}\n', "", [F]),
    # without any mark
    ('[{"name": "f", "arguments": {"a": 1}}]', "", [F]),
    ('```json\n{"name": "f", "arguments": {"a": 1}}\n```', "", [F]),
]
TEXTS = [
    "",
    " \n",
    "Hello.\n",
    "[",
    "[]",
    "[1] is a source",
    "{}",
    "```\ncode\n```",
    "a <tool_call",
    "a [TOOL",
    '{"name": "unknown", "parameters": {}}',
    '{"name": "f"}',
    '{"name": "f", "parameters": {"a": 1}} is how to call it',
    "<tool_call>f(1)</tool_call>",
    "<tool_call></tool_call>",
    "<tool_call>null</tool_call>",
    '<tool_call>{"name": "f", "arguments": [1]}</tool_call>',
    '<tool_call>{"name": "f", "arguments": "x"}</tool_call>',
    '<tool_call>{"name": "", "arguments": {}}</tool_call>',
    '<tool_call>{"name": "rm -rf", "arguments": {}}</tool_call>',
    '<tool_call>{"name": 3, "arguments": {}}</tool_call>',
    '<tool_call>{"name": "f", "arguments": {"a": NaN}}</tool_call>',
    '<tool_call>{"name": "f", "arguments": {"a": 1, "a": 2}}</tool_call>',
    '<tool_call>{"name": "f", "arguments": {"a": "\\ud800"}}</tool_call>',
    '<tool_call>{"name": "f", "arguments": {"a": ' + "9" * 5000 + "}}</tool_call>",
    '<tool_call>{"name": "f", "arguments": {"a": 1}</tool_call>',
    "<tool_call>" + "[" * 30_000,
    "<tool_call>" + '{"a":' * 10_000 + "</tool_call>",
    "[TOOL_CALLS]f[ARGS]1",
    '[TOOL_CALLS][{"name": "f", "arguments": {}}] and so on',
    '<|python_tag|>brave_search.call(query="x")',
    "\ud800<tool_call>\ud800</tool_call>",
]


def pieces(text: str, size: int) -> list[str]:
    return [text[start : start + size] for start in range(0, len(text), size)]


@pytest.mark.parametrize(("answer", "text", "calls"), CALLS)
@pytest.mark.parametrize("size", [1, 3, 7, 100_000])
def test_calls_are_taken_out(answer: str, text: str, calls: list[Any], size: int) -> None:
    assert scan(pieces(answer, size)) == (text, calls)


@pytest.mark.parametrize("answer", TEXTS, ids=lambda text: repr(text[:30]))
@pytest.mark.parametrize("size", [1, 5, 100_000])
def test_what_is_no_call_is_text(answer: str, size: int) -> None:
    if size == 1 and len(answer) > 10_000:
        size = 17
    assert scan(pieces(answer, size)) == (answer, [])


def test_a_broken_call_does_not_hide_the_next() -> None:
    broken = '<tool_call>{"name": "f", "arguments": {"a": "open</tool_call>'
    assert scan([f'{broken}\n<tool_call>{{"name": "g"}}</tool_call>']) == (broken, [G])


def test_only_the_styles_of_the_model_count() -> None:
    tagged, mistral = '<tool_call>{"name": "g"}</tool_call>', '[TOOL_CALLS][{"name": "g"}]'
    assert scan([tagged], (MISTRAL,)) == (tagged, [])
    assert scan([mistral], (TAGGED,)) == (mistral, [])
    assert scan([mistral], (MISTRAL,)) == ("", [G])


def test_styles_by_the_template() -> None:
    assert styles_of("… <tool_call> …") == (TAGGED,)
    assert styles_of("{{ '[TOOL_CALLS]' }}") == (MISTRAL,)
    assert styles_of("<|python_tag|>") == (PYTHON_TAG,)
    assert styles_of("{{ tools | tojson }}") == STYLES


def test_text_streams_until_a_call() -> None:
    scanner = CallScanner((TAGGED,), NAMES)
    shown = [scanner.push(piece) for piece in ("Let", " me", " see. \n", "<tool", "_x", " <", "tool_call>{", '"name')]
    assert shown == ["Let", " me", " see.", "", " \n<tool_x", "", "", ""]
    assert scanner.finish() == ' <tool_call>{"name'


@given(st.text(alphabet='ab <>[]{}_/"\\tol_calTOL:,\n', max_size=60), st.data())
def test_splitting_makes_no_difference(text: str, data: st.DataObject) -> None:
    for mark in ("<tool_call>", '{"name": "f", "arguments": {"a": 1}}', "</tool_call>", "[TOOL_CALLS]"):
        place = data.draw(st.integers(0, len(text)))
        text = text[:place] + mark + text[place:]
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=8)))
    parts = [text[start:end] for start, end in pairwise([0, *cuts, len(text)])]
    assert scan(parts) == scan([text])


@given(st.text(max_size=80))
def test_any_text_without_calls_comes_through(text: str) -> None:
    assert scan(list(text)) == (text, [])


def test_sizes_are_bounded() -> None:
    long = json.dumps({"name": "f", "arguments": {"a": "x" * MAX_CALL_CHARS}})
    for answer in (f"<tool_call>{long}</tool_call>", long, f"[TOOL_CALLS][{long}]"):
        assert scan(pieces(answer, 1000)) == (answer, [])
    many = '<tool_call>{"name": "g"}</tool_call>' * (MAX_CALLS + 2)
    text, calls = scan([many])
    assert len(calls) == MAX_CALLS
    assert text == '<tool_call>{"name": "g"}</tool_call>' * 2
    listed = f"<tool_call>[{', '.join(['{}'.format(json.dumps({'name': 'g'}))] * (MAX_CALLS + 1))}]</tool_call>"
    assert scan([listed]) == (listed, [])


def test_hostile_answers_take_no_long_time() -> None:
    start = time.perf_counter()
    for unit in (
        '"',
        '\\"',
        '"\\"',
        "</tool_call>",
        '"</tool_call>',
        "<tool_call>",
        "<tool_call>{",
        "[",
        "{",
        " ",
        "`",
    ):
        answer = "<tool_call>" + unit * (40_000 // len(unit))
        text, calls = scan(pieces(answer, 500))
        assert (text, calls) == (answer, [])
    assert time.perf_counter() - start < 20
