from __future__ import annotations

import enum
import sys
from dataclasses import dataclass, field
from typing import Any, Literal, Optional, Union

import pytest

from edgelm.errors import ConfigError
from edgelm.text.json_schema import as_schema, closed, dataclass_schema


class Colour(enum.Enum):
    RED = "red"
    BLUE = 2


@dataclass
class Place:
    name: str
    height: float | None = None


@dataclass
class Everything:
    text: str
    count: int
    share: float
    sure: bool
    nothing: None
    either: Union[int, str]  # noqa: UP007
    perhaps: Optional[int]  # noqa: UP045
    word: Literal["a", 1, None]
    colour: Colour
    places: list[Place]
    by_name: dict[str, list[int]]
    anything: list
    main: Place = field(default_factory=lambda: Place("x"))


@dataclass
class Node:
    value: int
    children: list[Node]


def test_a_dataclass_becomes_an_object_of_its_fields() -> None:
    schema = as_schema(Everything)
    place = {
        "type": "object",
        "properties": {"name": {"type": "string"}, "height": {"anyOf": [{"type": "number"}, {"type": "null"}]}},
        "additionalProperties": False,
        "required": ["name"],
    }
    assert schema == {
        "$defs": {"Place": place},
        "type": "object",
        "properties": {
            "text": {"type": "string"},
            "count": {"type": "integer"},
            "share": {"type": "number"},
            "sure": {"type": "boolean"},
            "nothing": {"type": "null"},
            "either": {"anyOf": [{"type": "integer"}, {"type": "string"}]},
            "perhaps": {"anyOf": [{"type": "integer"}, {"type": "null"}]},
            "word": {"enum": ["a", 1, None]},
            "colour": {"enum": ["red", 2]},
            "places": {"type": "array", "items": {"$ref": "#/$defs/Place"}},
            "by_name": {"type": "object", "additionalProperties": {"type": "array", "items": {"type": "integer"}}},
            "anything": {"type": "array"},
            "main": {"$ref": "#/$defs/Place"},
        },
        "additionalProperties": False,
        "required": [name for name in Everything.__dataclass_fields__ if name != "main"],
    }
    assert list(schema["properties"]) == list(Everything.__dataclass_fields__)


def test_a_dataclass_may_refer_to_itself() -> None:
    schema = as_schema(Node)
    assert schema["$ref"] == "#/$defs/Node"
    assert schema["$defs"]["Node"]["properties"]["children"]["items"] == {"$ref": "#/$defs/Node"}


def made(name: str, kind: Any) -> type:
    return dataclass(type(name, (), {"__annotations__": {"x": kind}}))


@pytest.mark.parametrize(
    ("kind", "shown"),
    [
        (tuple[int, int], r"tuple\[int, int\]"),
        (dict[int, str], r"dict\[int, str\]"),
        (set, "set"),
        (bytes, "bytes"),
        (Any, r"(typing\.)?Any"),
        (list[set], "set"),
    ],
)
def test_other_types_are_refused_with_their_place(kind: Any, shown: str) -> None:
    with pytest.raises(ConfigError, match=rf"^json_schema: Thing\.x is of type {shown}; taken are str, int, "):
        dataclass_schema(made("Thing", kind))


def test_values_that_are_no_json_are_refused() -> None:
    kind = enum.Enum("Odd", {"A": (1, 2)})
    with pytest.raises(ConfigError, match=r"Thing\.x may be \(1, 2\), which is no string"):
        dataclass_schema(made("Thing", kind))


def test_types_that_cannot_be_found_are_named() -> None:
    with pytest.raises(ConfigError, match="the types of Thing cannot be read: name 'Missing' is not defined"):
        dataclass_schema(made("Thing", "Missing"))


def test_two_dataclasses_of_one_name_are_refused() -> None:
    outer = dataclass(type("Outer", (), {"__annotations__": {"a": made("X", int), "b": made("X", str)}}))
    with pytest.raises(ConfigError, match="two dataclasses of the name X"):
        dataclass_schema(outer)


def test_pydantic_is_used_but_not_imported() -> None:
    class Model:  # as much of pydantic as is looked at
        @classmethod
        def model_json_schema(cls) -> dict[str, Any]:
            return {"type": "object", "title": "Model"}

    assert as_schema(Model) == {"type": "object", "title": "Model"}
    assert "pydantic" not in sys.modules


def test_text_and_mappings_are_taken_as_they_are() -> None:
    schema = {"type": "array", "items": {"$ref": "#/$defs/x"}, "$defs": {"x": {"enum": [1, "ä"]}}}
    assert as_schema(schema) == schema
    assert as_schema('{"enum": ["ä"]}') == {"enum": ["ä"]}
    assert as_schema({}) == as_schema("{}") == {"type": "object"}


@pytest.mark.parametrize("given", [[], "[]", 5, None, int, True, "null", Place("x"), "{", "", "[" * 100_000])
def test_what_is_no_schema_is_refused(given: object) -> None:
    with pytest.raises(ConfigError, match=r"^json_schema (must be a JSON object|is not JSON)"):
        as_schema(given)


def test_what_json_cannot_say_is_refused() -> None:
    for given in ({"enum": [{1, 2}]}, {"const": float("nan")}):
        with pytest.raises(ConfigError, match=r"^json_schema is no JSON: "):
            as_schema(given)


@pytest.mark.parametrize("reference", ["https://example.com/x.json", "other.json#/x", "file:///etc/passwd"])
def test_schemas_elsewhere_are_refused(reference: str) -> None:
    for given in ({"$ref": reference}, {"properties": {"a": {"anyOf": [{"items": {"$ref": reference}}]}}}):
        with pytest.raises(ConfigError, match="nothing is fetched, so \\$ref must begin with #"):
            as_schema(given)
    harmless = {"properties": {"$ref": {"enum": [{"$ref": reference}]}}}
    assert as_schema(harmless) == harmless


A = {"properties": {"a": {"type": "integer"}}}


def test_objects_have_the_properties_that_are_named() -> None:
    assert closed(A) == {**A, "additionalProperties": False}
    assert closed({"type": "array", "items": A})["items"]["additionalProperties"] is False
    assert closed({"$defs": {"x": A}, "$ref": "#/$defs/x"})["$defs"]["x"]["additionalProperties"] is False
    assert closed({"anyOf": [A, {"type": "null"}]})["anyOf"][0]["additionalProperties"] is False
    assert closed({"properties": {"properties": A}})["properties"]["properties"] == closed(A)


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object"},
        {**A, "additionalProperties": True},
        {**A, "additionalProperties": {"type": "string"}},
        {**A, "patternProperties": {"^b": {}}},
        {**A, "anyOf": [{"properties": {"b": {}}}, {"required": ["a"]}]},
        {**A, "$ref": "#/$defs/x"},
        {"allOf": [A, {"properties": {"b": {}}}]},
        {"enum": [A]},
        {"properties": {"enum": {"const": A}}, "additionalProperties": True},
    ],
)
def test_where_others_may_be_named_they_stay_allowed(schema) -> None:
    before = repr(schema)
    assert closed(schema) == schema
    assert repr(schema) == before
