"""JSON schemas as callers give them: a mapping, JSON text, a pydantic model, or a dataclass, which is made into one."""

from __future__ import annotations

import dataclasses
import enum
import json
import types
import typing
from collections.abc import Iterable, Mapping
from typing import Any, Literal, Union

from edgelm.errors import ConfigError

Schema = dict[str, Any]

_PLAIN: dict[Any, str] = {
    str: "string",
    int: "integer",
    float: "number",
    bool: "boolean",
    type(None): "null",
    list: "array",
    dict: "object",
}
# Under these stand values, not schemas.
_VALUES = frozenset({"const", "default", "enum", "examples"})
# Under these stand schemas by name.
_NAMED = frozenset({"$defs", "definitions", "dependentSchemas", "patternProperties", "properties"})
# With these, other parts of the schema may name properties, too.
_SHARED = frozenset({"$ref", "allOf", "anyOf", "dependentSchemas", "if", "oneOf"})
_SAYS_OTHERS = frozenset({"additionalProperties", "patternProperties", "unevaluatedProperties"})


def as_schema(given: object) -> Schema:
    """The schema that a caller means.

    Args:
        given: a mapping; JSON text; a class with ``model_json_schema`` (pydantic); or a dataclass. Fields of a
            dataclass may be str, int, float, bool, None, their unions, Literal, Enum, list[X], dict[str, X], and
            dataclasses; those with a default may be left out. An empty schema stands for any object.

    Raises:
        ConfigError: it is none of these, is not JSON, or refers to a schema elsewhere.
    """
    schema = _given_schema(given) or {"type": "object"}
    for reference in _references(schema):
        if not reference.startswith("#"):
            raise ConfigError(f"json_schema: nothing is fetched, so $ref must begin with #, unlike {reference!r:.200}")
    try:
        json.dumps(schema, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise ConfigError(f"json_schema is no JSON: {error}") from None
    return schema


def closed(schema: Schema) -> Schema:
    """The schema without properties that it does not name, where it does not speak of them.

    JSON Schema allows such; small models, once they may add properties, go on adding them.
    """
    if any(len(parts) > 1 for parts in _joined(schema)):  # what one part names is another to the next
        return schema
    closed: Schema = _closed(schema)
    return closed


def dataclass_schema(kind: type) -> Schema:
    """The JSON schema of a dataclass's fields; see ``as_schema``.

    Raises:
        ConfigError: a field is of a type that has no schema; names both.
    """
    definitions: dict[str, Schema] = {}
    schema = _ClassReader(definitions).of_class(kind)
    if schema in _used(definitions):  # it refers to itself
        return {"$defs": definitions, **schema}
    own = definitions.pop(schema["$ref"].rpartition("/")[2])
    return {"$defs": definitions, **own} if definitions else own


def _given_schema(given: object) -> Schema:
    if isinstance(given, type):
        if callable(getattr(given, "model_json_schema", None)):
            return _mapping(given.model_json_schema())  # type: ignore[attr-defined]
        if dataclasses.is_dataclass(given):
            return dataclass_schema(given)
    if isinstance(given, str):
        try:
            return _mapping(json.loads(given))
        except (ValueError, RecursionError) as error:
            raise ConfigError(f"json_schema is not JSON: {error}") from None
    return _mapping(given)


def _mapping(value: object) -> Schema:
    if isinstance(value, Mapping):
        return dict(value)
    raise ConfigError(
        "json_schema must be a JSON object: a dict, a text, a dataclass or a pydantic model, "
        f"not {getattr(value, '__name__', None) or repr(value):.80}"
    )


def _closed(schema: Any) -> Any:
    if isinstance(schema, list):
        return [_closed(each) for each in schema]
    if not isinstance(schema, Mapping):
        return schema
    made: Schema = {}
    for name, inner in schema.items():
        if name in _NAMED and isinstance(inner, Mapping):
            made[name] = {key: _closed(each) for key, each in inner.items()}
        elif name in _VALUES or (name in _SHARED and "properties" in schema):
            made[name] = inner
        else:
            made[name] = _closed(inner)
    if "properties" in schema and not (_SHARED | _SAYS_OTHERS) & schema.keys():
        made["additionalProperties"] = False
    return made


def _joined(value: object) -> Iterable[list[Any]]:
    """All ``allOf`` of a schema."""
    waiting = [value]
    while waiting:
        value = waiting.pop()
        if isinstance(value, Mapping):
            if isinstance(value.get("allOf"), list):
                yield value["allOf"]
            waiting += value.values()
        elif isinstance(value, list):
            waiting += value


def _references(value: object) -> Iterable[str]:
    """All ``$ref`` of a schema."""
    waiting = [value]
    while waiting:
        value = waiting.pop()
        if isinstance(value, Mapping):
            if isinstance(value.get("$ref"), str):
                yield value["$ref"]
            waiting += [inner for name, inner in value.items() if name not in _VALUES]
        elif isinstance(value, (list, tuple)):
            waiting += value


def _used(definitions: dict[str, Schema]) -> list[Schema]:
    return [{"$ref": reference} for reference in _references(definitions)]


class _ClassReader:
    """Reads types, and collects the schemas of dataclasses by name."""

    def __init__(self, definitions: dict[str, Schema]) -> None:
        self._definitions = definitions
        self._named: dict[str, type] = {}

    def of_class(self, kind: type) -> Schema:
        name = kind.__name__
        if self._named.setdefault(name, kind) is not kind:
            raise ConfigError(f"json_schema: there are two dataclasses of the name {name}")
        if name not in self._definitions:
            properties: Schema = {}
            self._definitions[name] = {"type": "object", "properties": properties, "additionalProperties": False}
            fields = [field for field in dataclasses.fields(kind) if field.init]
            try:
                hints = typing.get_type_hints(kind)
            except (NameError, TypeError) as error:
                raise ConfigError(f"json_schema: the types of {name} cannot be read: {error}") from None
            properties |= {field.name: self._of(hints[field.name], f"{name}.{field.name}") for field in fields}
            self._definitions[name]["required"] = [field.name for field in fields if _is_required(field)]
        return {"$ref": f"#/$defs/{name}"}

    def _of(self, kind: Any, where: str) -> Schema:
        origin, arguments = typing.get_origin(kind), typing.get_args(kind)
        if kind in _PLAIN:
            return {"type": _PLAIN[kind]}
        if origin in (Union, types.UnionType):
            return {"anyOf": [self._of(each, where) for each in arguments]}
        if origin is Literal:
            return {"enum": _values(arguments, where)}
        if origin is list:
            return {"type": "array", "items": self._of(arguments[0], where)}
        if origin is dict and arguments[0] is str:
            return {"type": "object", "additionalProperties": self._of(arguments[1], where)}
        if isinstance(kind, type) and issubclass(kind, enum.Enum):
            return {"enum": _values([member.value for member in kind], where)}
        if isinstance(kind, type) and dataclasses.is_dataclass(kind):
            return self.of_class(kind)
        shown = kind.__name__ if isinstance(kind, type) and origin is None else str(kind)
        raise ConfigError(
            f"json_schema: {where} is of type {shown:.80}; taken are str, int, float, bool, None, Optional, unions, "
            "Literal, Enum, list[X], dict[str, X] and dataclasses"
        )


def _is_required(field: dataclasses.Field[Any]) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _values(values: Iterable[Any], where: str) -> list[Any]:
    listed = list(values)
    for value in listed:
        if value is not None and not isinstance(value, (str, int, float, bool)):
            raise ConfigError(f"json_schema: {where} may be {value!r:.80}, which is no string, number, bool or None")
    return [value.value if isinstance(value, enum.Enum) else value for value in listed]
