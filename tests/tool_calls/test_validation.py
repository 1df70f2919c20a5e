"""Arguments held to schemas."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.tools import everything, get_weather

from edgelm.tool_calls.schema import function_schema
from edgelm.tool_calls.validation import arguments_fault

WEATHER = function_schema(get_weather)["function"]["parameters"]
EVERYTHING = function_schema(everything)["function"]["parameters"]
RIGHT: dict[str, Any] = {
    "text": "x",
    "count": 3,
    "share": 2,
    "sure": True,
    "names": ["a"],
    "table": {"a": [1.5]},
    "pair": [1, "b"],
    "maybe": None,
    "either": "x",
    "both": 1.5,
    "mixed": {"a": 1},
    "anything": [{}],
    "choice": None,
    "drink": "tea",
}


def test_what_fits() -> None:
    assert arguments_fault(RIGHT, EVERYTHING) is None
    assert arguments_fault({"city": "Rome"}, WEATHER) is None
    assert arguments_fault({"city": "Rome", "days": 3.0}, WEATHER) is None
    assert arguments_fault({}, {}) is None


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"text": 3}, "'text' must be string, not 3"),
        ({"text": None}, "'text' must be string, not None"),
        ({"count": "3"}, "'count' must be integer, not '3'"),
        ({"count": 3.5}, "'count' must be integer, not 3.5"),
        ({"count": True}, "'count' must be integer, not True"),
        ({"share": "much"}, "'share' must be number, not 'much'"),
        ({"sure": 1}, "'sure' must be boolean, not 1"),
        ({"names": ["a", 2]}, "'names[1]' must be string, not 2"),
        ({"table": {"a": [1, "x"]}}, "'table.a[1]' must be number, not 'x'"),
        ({"pair": [1]}, "'pair' must have 2 items, not 1"),
        ({"pair": ["b", 1]}, "'pair[0]' must be integer, not 'b'"),
        ({"either": []}, "'either' must be integer or string, not []"),
        ({"mixed": "x"}, "'mixed' must be array or object, not 'x'"),
        ({"choice": 4}, "'choice' must be one of 1, 2, 'three', None, not 4"),
        ({"drink": "wine"}, "'drink' must be one of 'tea', 'coffee', not 'wine'"),
        ({"more": 1}, "there is no argument 'more'; arguments are: text, count"),
    ],
)
def test_what_does_not(change: dict[str, Any], words: str) -> None:
    fault = arguments_fault({**RIGHT, **change}, EVERYTHING)
    assert fault is not None
    assert fault.startswith(words)


def test_any_of_several() -> None:
    schema = {"properties": {"x": {"anyOf": [{"type": "array", "items": {"type": "integer"}}, {"type": "boolean"}]}}}
    assert arguments_fault({"x": [1]}, schema) is None
    assert arguments_fault({"x": True}, schema) is None
    assert arguments_fault({"x": ["a"]}, schema) == "'x[0]' must be integer, not 'a'"


def test_what_is_missing() -> None:
    assert arguments_fault({"days": 1}, WEATHER) == "the argument 'city' is missing"
    assert arguments_fault({"at": {}}, {"properties": {"at": {"required": ["x"]}}}) == "the argument 'at.x' is missing"


def test_a_schema_may_allow_other_arguments() -> None:
    assert arguments_fault({"x": 1}, {"additionalProperties": True}) is None
    assert arguments_fault({"x": 1}, {"additionalProperties": {"type": "string"}}) == "'x' must be string, not 1"
    assert arguments_fault({"x": {"y": 1}}, {"properties": {"x": {"properties": {}}}}) is None


def test_true_is_not_one() -> None:
    assert arguments_fault({"x": True}, {"properties": {"x": {"enum": [1]}}}) is not None
    assert arguments_fault({"x": True}, {"properties": {"x": {"const": True}}}) is None


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)
WORDS = st.sampled_from(
    (
        *("type", "enum", "const", "anyOf", "oneOf", "items", "prefixItems", "properties", "required", "nullable"),
        *("additionalProperties", "string", "integer", "object", "x"),
    )
)
SCHEMAS = st.recursive(
    JSON | WORDS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=4), max_leaves=12
)


@given(st.dictionaries(st.text(max_size=5), JSON), st.dictionaries(WORDS, SCHEMAS))
def test_no_schema_makes_it_fail(arguments: dict[str, Any], schema: dict[str, Any]) -> None:
    fault = arguments_fault(arguments, schema)
    assert fault is None or (isinstance(fault, str) and len(fault) < 3000)


def test_a_schema_that_never_ends() -> None:
    schema: dict[str, Any] = {"type": "object"}
    schema["anyOf"] = [schema]
    assert arguments_fault({}, {**schema, "anyOf": [schema]}) is None
