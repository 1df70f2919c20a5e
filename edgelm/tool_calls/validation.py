"""Arguments of a call held to a tool's schema.

Looked at: ``type`` (one or several), ``nullable``, ``enum``, ``const``, ``anyOf``, ``oneOf`` (as ``anyOf``),
``items``, ``prefixItems``, ``properties``, ``required``, ``additionalProperties``. Other keywords are for the model to
read and the tool to check. A broken schema finds no fault.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from edgelm.checks import is_finite

MAX_DEPTH = 64


def arguments_fault(arguments: Mapping[str, Any], schema: Mapping[str, Any]) -> str | None:
    """What is wrong with the arguments of a call, in a sentence that the model can act on; None: nothing.

    An argument that ``properties`` does not name is one too many, unless ``additionalProperties`` allows others.
    """
    closed = {**schema, "additionalProperties": schema.get("additionalProperties", False)}
    return _fault(dict(arguments), closed, "", 0)


def _fault(value: Any, schema: Any, where: str, depth: int) -> str | None:
    if not isinstance(schema, Mapping) or depth > MAX_DEPTH or (value is None and schema.get("nullable") is True):
        return None
    if "type" in schema and not _is_of(value, schema["type"]):
        return f"{_named(where)} must be {_types_text(schema['type'])}, not {_shown(value)}"
    allowed = [schema["const"]] if "const" in schema else schema.get("enum")
    if isinstance(allowed, list) and not any(_equal(value, choice) for choice in allowed):
        return f"{_named(where)} must be one of {', '.join(map(_shown, allowed[:20]))}, not {_shown(value)}"
    for name in ("anyOf", "oneOf"):
        choices = schema.get(name)
        if isinstance(choices, list) and choices:
            faults = [_fault(value, choice, where, depth + 1) for choice in choices]
            if None not in faults:
                return faults[0]
    if isinstance(value, dict):
        return _object_fault(value, schema, where, depth)
    return _array_fault(value, schema, where, depth) if isinstance(value, list) else None


def _object_fault(value: dict[str, Any], schema: Mapping[str, Any], where: str, depth: int) -> str | None:
    properties = schema.get("properties")
    properties = properties if isinstance(properties, Mapping) else {}
    required = schema.get("required")
    for name in required if isinstance(required, list) else ():
        if isinstance(name, str) and name not in value:
            return f"the argument {_inside(where, name)!r} is missing"
    others = schema.get("additionalProperties")
    for name, item in value.items():
        if name not in properties and others is False:
            known = ", ".join(map(str, properties)) or "none"
            return f"there is no argument {_inside(where, name)!r:.80}; arguments are: {known}"
        fault = _fault(item, properties.get(name, others), _inside(where, name), depth + 1)
        if fault is not None:
            return fault
    return None


def _array_fault(value: list[Any], schema: Mapping[str, Any], where: str, depth: int) -> str | None:
    first = schema.get("prefixItems")
    first = first if isinstance(first, list) else []
    if first and "items" not in schema and len(value) != len(first):
        return f"{_named(where)} must have {len(first)} items, not {len(value)}"
    for index, item in enumerate(value):
        own = first[index] if index < len(first) else schema.get("items")
        fault = _fault(item, own, f"{where}[{index}]", depth + 1)
        if fault is not None:
            return fault
    return None


def _is_of(value: Any, kinds: Any) -> bool:
    known = [
        kind for kind in (kinds if isinstance(kinds, list) else [kinds]) if isinstance(kind, str) and kind in _TYPES
    ]
    return not known or any(_TYPES[kind](value) for kind in known)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and is_finite(value)


_TYPES: dict[str, Callable[[Any], bool]] = {
    "string": lambda value: isinstance(value, str),
    "boolean": lambda value: isinstance(value, bool),
    "null": lambda value: value is None,
    "array": lambda value: isinstance(value, list),
    "object": lambda value: isinstance(value, dict),
    "number": _is_number,
    "integer": lambda value: _is_number(value) and float(value).is_integer(),
}


def _equal(value: Any, choice: Any) -> bool:
    """As in JSON, where true is not 1."""
    return isinstance(value, bool) == isinstance(choice, bool) and bool(value == choice)


def _types_text(kinds: Any) -> str:
    return " or ".join(map(str, kinds)) if isinstance(kinds, list) else str(kinds)


def _inside(where: str, name: object) -> str:
    return f"{where}.{name}" if where else str(name)


def _named(where: str) -> str:
    return repr(where) if where else "the arguments"


def _shown(value: Any) -> str:
    return f"{value!r:.80}"
