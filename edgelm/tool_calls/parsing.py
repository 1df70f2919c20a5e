"""Calls in the text of an answer: JSON, in each of the forms that families of models write it.

Nothing is evaluated, all sizes are bounded, and what is no well-formed call is None, never an error.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from edgelm.bundle.strict_json import load_json
from edgelm.errors import ModelError

MAX_CALLS = 32  # of an answer
MAX_CALL_CHARS = 1 << 16
NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")

_SEPARATORS = re.compile(r"[\s;,]*")
# Possessive, so that no text takes longer than its length.
_WHOLE_STRINGS = re.compile(r'(?:[^"]++|"(?:[^"\\]++|\\.)*+")*+', re.DOTALL)
_NAMED = re.compile(r"\s*([A-Za-z0-9_.-]{1,64})(?:\[CALL_ID\]\w{1,64})?(?:\[ARGS\])?\s*(?=\{)")
_FENCED = re.compile(r"```(?:json)?\s*\n(.*?)\n?```", re.DOTALL)
_ARGUMENT_KEYS = ("arguments", "parameters")


class FoundCall(NamedTuple):
    """A well-formed call, of whatever function."""

    name: str
    arguments: dict[str, Any]


Calls = list[FoundCall] | None


class Style(NamedTuple):
    """How a family of models marks its calls.

    ``opening``: what stands before them; ``closing``: behind them, None where it is the end of the answer; ``parse``:
    reads what is between. ``markers``: texts that may be special tokens of the model, to be seen all the same.
    """

    opening: str
    closing: str | None
    parse: Callable[[str], Calls]
    markers: tuple[str, ...]


def parse_calls(text: str) -> Calls:
    """Calls as JSON objects or lists of them, with white space, ``;`` or ``,`` between; None: the text is not that.

    A call is ``{"name": …, "arguments": {…}}``, or with ``parameters``, or all that inside ``function``; arguments may
    be an object, or the JSON of one in a string.
    """
    calls: list[FoundCall] = []
    for value in _values(text):
        for item in value if isinstance(value, list) else [value]:
            call = _call(item)
            if call is None or len(calls) == MAX_CALLS:
                return None
            calls.append(call)
    # An empty list is SmolLM2's way to say that no call is needed; no value at all is none.
    return calls if calls or text.strip() == "[]" else None


def parse_named_calls(text: str) -> Calls:
    """Mistral's calls: those of ``parse_calls``, or ``name[ARGS]{…}``, or several of either."""
    calls: list[FoundCall] = []
    for part in text.split("[TOOL_CALLS]"):
        named = _NAMED.match(part)
        if named is None:
            found = parse_calls(part)
        else:
            values = list(_values(part[named.end() :]))
            found = [FoundCall(named[1], values[0])] if len(values) == 1 and isinstance(values[0], dict) else None
        if found is None:
            return None
        calls += found
    return calls if len(calls) <= MAX_CALLS else None


def parse_bare(text: str) -> Calls:
    """Calls that are the whole answer, perhaps in a fenced block; each must say that it has arguments."""
    fenced = _FENCED.fullmatch(text.strip())
    inside = fenced[1] if fenced else text
    return parse_calls(inside) if any(f'"{key}"' in inside for key in _ARGUMENT_KEYS) else None


def ends_inside_string(text: str) -> bool:
    """Whether a text of JSON ends in the middle of a string."""
    return _matched(_WHOLE_STRINGS, text, 0) < len(text)


TAGGED = Style("<tool_call>", "</tool_call>", parse_calls, ("<tool_call>", "</tool_call>"))
MISTRAL = Style("[TOOL_CALLS]", None, parse_named_calls, ("[TOOL_CALLS]", "[ARGS]", "[CALL_ID]"))
PYTHON_TAG = Style("<|python_tag|>", None, parse_calls, ("<|python_tag|>",))
STYLES = (TAGGED, MISTRAL, PYTHON_TAG)


def styles_of(template: str) -> tuple[Style, ...]:
    """The styles that a chat template writes calls in; all of them where it shows none.

    Calls without any mark, as Llama's, are looked for in every answer.
    """
    return tuple(style for style in STYLES if style.opening in template) or STYLES


def _values(text: str) -> Iterator[Any]:
    """The JSON values of a text, one after the other; ends with None at the first thing that is none."""
    position = _matched(_SEPARATORS, text, 0)
    while position < len(text):
        value, position = _value(text, position)
        yield value
        if value is None:
            return
        position = _matched(_SEPARATORS, text, position)


def _matched(pattern: re.Pattern[str], text: str, start: int) -> int:
    """Where what a pattern matches ends, perhaps where it starts."""
    found = pattern.match(text, start)
    return found.end() if found else start


def _value(text: str, start: int) -> tuple[Any, int]:
    try:
        _, end = json.JSONDecoder().raw_decode(text, start)
        # Once more, strictly: no NaN, no key twice, no depth, no half of a character.
        return load_json(text[start:end].encode(), what="call", limit=4 * MAX_CALL_CHARS), end
    except (ValueError, RecursionError, ModelError):  # ValueError: no JSON, or a lone surrogate
        return None, len(text)


def _call(value: Any) -> FoundCall | None:
    if isinstance(value, dict) and isinstance(value.get("function"), dict):
        value = value["function"]
    if not isinstance(value, dict):
        return None
    name = value.get("name") or value.get("function")
    given = [value[key] for key in _ARGUMENT_KEYS if key in value]
    arguments = given[0] if given else {}
    if isinstance(arguments, str):
        arguments = _value(arguments, 0)[0]
    if arguments is None and given[0] is None:
        arguments = {}
    if not isinstance(name, str) or NAME.fullmatch(name) is None or not isinstance(arguments, dict):
        return None
    return FoundCall(name, arguments)
