"""Functions to schemas."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Literal

import pytest
from support.tools import everything, get_weather, nothing

from edgelm.errors import ConfigError
from edgelm.tool_calls.schema import function_schema


class Own:
    pass


def test_a_function_is_described() -> None:
    assert function_schema(get_weather) == {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": "Tell the weather of a city.\n\nIt knows a few days ahead only.",
            "parameters": {
                "type": "object",
                "properties": {
                    "city": {"type": "string", "description": "The name of the city, in English."},
                    "days": {"type": "integer", "description": "How many days ahead: at most seven."},
                    "unit": {"type": "string", "enum": ["C", "F"], "description": "The unit of temperatures."},
                },
                "required": ["city"],
            },
            "return": {"type": "string", "description": "A sentence."},
        },
    }


def test_types() -> None:
    properties = function_schema(everything)["function"]["parameters"]["properties"]
    described = {name: {k: v for k, v in schema.items() if k != "description"} for name, schema in properties.items()}
    assert described == {
        "text": {"type": "string"},
        "count": {"type": "integer"},
        "share": {"type": "number"},
        "sure": {"type": "boolean"},
        "names": {"type": "array", "items": {"type": "string"}},
        "table": {"type": "object", "additionalProperties": {"type": "array", "items": {"type": "number"}}},
        "pair": {"type": "array", "prefixItems": [{"type": "integer"}, {"type": "string"}]},
        "maybe": {"type": "integer", "nullable": True},
        "either": {"type": ["integer", "string"]},
        "both": {"type": ["integer", "number"], "nullable": True},
        "mixed": {"type": ["array", "object"]},
        "anything": {},
        "choice": {"type": ["integer", "string", "null"], "enum": [1, 2, "three", None]},
        "drink": {"type": "string", "enum": ["tea", "coffee"]},
        "plain": {"type": "object"},
    }


def test_a_union_with_what_has_no_single_type() -> None:
    def tell(what: Literal[1, "x"] | list[int]) -> None:
        """Tell.

        Args:
            what: what
        """

    (schema,) = function_schema(tell)["function"]["parameters"]["properties"].values()
    choices = [{"type": ["integer", "string"], "enum": [1, "x"]}, {"type": "array", "items": {"type": "integer"}}]
    assert schema == {"anyOf": choices, "description": "what"}


def test_a_function_without_arguments() -> None:
    assert function_schema(nothing)["function"]["parameters"] == {"type": "object", "properties": {}}


def untyped(city, days: int = 1):  # type: ignore[no-untyped-def]
    """Tell.

    Args:
        city: the city
        days: the days
    """


def undescribed(city: str, days: int) -> None:
    """Tell.

    Args:
        city: the city
    """


def undocumented(city: str) -> None:
    pass


def of_own_class(city: Own) -> None:
    """Tell.

    Args:
        city: the city
    """


def several(*cities: str) -> None:
    """Tell.

    Args:
        cities: the cities
    """


def positional(city: str, /) -> None:
    """Tell.

    Args:
        city: the city
    """


def bad_choices(city: str) -> None:
    """Tell.

    Args:
        city: the city (choices: [Rome])
    """


def bytes_choice(city: Literal[b"x"]) -> None:
    """Tell.

    Args:
        city: the city
    """


def unknown_hint(city: NoSuchType) -> None:  # type: ignore[name-defined]  # noqa: F821
    """Tell.

    Args:
        city: the city
    """


async def asynchronous(city: str) -> None:
    """Tell.

    Args:
        city: the city
    """


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (untyped, "tool untyped: argument 'city' has no type hint"),
        (undescribed, "tool undescribed: its docstring does not describe the argument 'days'"),
        (undocumented, "tool undocumented: it has no docstring"),
        (of_own_class, "tool of_own_class: argument 'city' has the type Own, which JSON has not"),
        (several, "argument \"*cities: 'str'\" cannot be given by name"),
        (positional, "cannot be given by name"),
        (bad_choices, "tool bad_choices: argument 'city': its choices must be a list of JSON, not [Rome]"),
        (bytes_choice, "has the choice b'x', which JSON has not"),
        (unknown_hint, "tool unknown_hint: its type hints cannot be read: name 'NoSuchType' is not defined"),
        (asynchronous, "tool asynchronous: async functions cannot be called here"),
        (3, "a tool must be a function or a schema, not 3"),
        (print, "tool print: argument '*args' cannot be given by name"),
    ],
)
def test_what_cannot_be_described_is_refused_by_name(function: Callable[..., Any], words: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(words)):
        function_schema(function)
