"""A Python function to the JSON schema that chat templates take, by the rules of transformers' ``get_json_schema``.

Where those rules let something pass that they cannot describe (a class of one's own, ``*args``), it is refused.
"""

from __future__ import annotations

import inspect
import json
import re
import types
from collections.abc import Callable
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from edgelm.errors import ConfigError
from edgelm.tool_calls.docstring import parse_docstring

_NAMES: dict[Any, dict[str, Any]] = {
    str: {"type": "string"},
    int: {"type": "integer"},
    float: {"type": "number"},
    bool: {"type": "boolean"},
    type(None): {"type": "null"},
    list: {"type": "array"},
    tuple: {"type": "array"},
    dict: {"type": "object"},
    Any: {},
}
_CHOICES = re.compile(r"\(choices:\s*(\[.*\])\s*\)\s*$", re.IGNORECASE | re.DOTALL)


def function_schema(function: Callable[..., Any]) -> dict[str, Any]:
    """``{"type": "function", "function": {name, description, parameters, return}}`` of a function.

    It must have a docstring in Google's style, and each argument a type hint (str, int, float, bool, None, list, dict,
    tuple, Any, Optional, Union, Literal) and a description; one that ends in ``(choices: ["a", "b"])`` gives an enum.

    Raises:
        ConfigError: it has not; names the function and the argument.
    """
    name = getattr(function, "__name__", None)
    if not name or not callable(function):
        raise ConfigError(f"a tool must be a function or a schema, not {function!r:.80}")
    if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
        raise ConfigError(f"tool {name}: async functions cannot be called here")
    parameters, hints = _parameters(function, name)
    text = inspect.getdoc(function)
    if not text:
        raise ConfigError(f"tool {name}: it has no docstring, from which the model learns what it does")
    doc = parse_docstring(text, set(parameters))
    properties = {}
    for argument in parameters:
        if not doc.arguments.get(argument):
            raise ConfigError(f"tool {name}: its docstring does not describe the argument {argument!r} under 'Args:'")
        schema = _type_schema(hints[argument], f"tool {name}: argument {argument!r}")
        properties[argument] = schema | _described(doc.arguments[argument], f"tool {name}: argument {argument!r}")
    required = [argument for argument, given in parameters.items() if given.default is inspect.Parameter.empty]
    described: dict[str, Any] = {
        "name": name,
        "description": doc.description,
        "parameters": {"type": "object", "properties": properties} | ({"required": required} if required else {}),
    }
    if "return" in hints:
        described["return"] = _return_schema(hints["return"]) | ({"description": doc.returns} if doc.returns else {})
    return {"type": "function", "function": described}


def _parameters(function: Callable[..., Any], name: str) -> tuple[dict[str, inspect.Parameter], dict[str, Any]]:
    """The parameters by name, and the types of these and of what is returned."""
    try:
        parameters = dict(inspect.signature(function).parameters)
        hints = get_type_hints(function)
    except Exception as error:  # a hint may be any expression
        raise ConfigError(f"tool {name}: its type hints cannot be read: {error}") from error
    for argument, parameter in parameters.items():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD, parameter.POSITIONAL_ONLY):
            raise ConfigError(f"tool {name}: argument {str(parameter)!r} cannot be given by name")
        if argument not in hints:
            raise ConfigError(f"tool {name}: argument {argument!r} has no type hint")
    return parameters, hints


def _return_schema(hint: Any) -> dict[str, Any]:
    """Of the result, which hardly a template shows and nothing checks: what cannot be described is an object."""
    try:
        return _type_schema(hint, "")
    except ConfigError:
        return {"type": "object"}


def _type_schema(hint: Any, where: str) -> dict[str, Any]:
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is None and hint in _NAMES:
        return dict(_NAMES[hint])
    if origin in (Union, types.UnionType):
        return _union(arguments, where)
    if origin is Literal:
        return _literal(arguments, where)
    if origin is list:
        return {"type": "array", "items": _type_schema(arguments[0], where)}
    if origin is tuple and len(arguments) > 1 and Ellipsis not in arguments:
        return {"type": "array", "prefixItems": [_type_schema(item, where) for item in arguments]}
    if origin is dict and arguments[0] is str:
        return {"type": "object", "additionalProperties": _type_schema(arguments[1], where)}
    raise ConfigError(
        f"{where} has the type {getattr(hint, '__name__', hint) if origin is None else hint}, which JSON has not; take "
        "str, int, float, bool, list, dict with str as keys, tuple of a fixed length, Optional, Union or Literal"
    )


def _union(members: tuple[Any, ...], where: str) -> dict[str, Any]:
    schemas = [_type_schema(member, where) for member in members if member is not type(None)]
    nullable = {"nullable": True} if type(None) in members else {}
    if len(schemas) == 1:
        return schemas[0] | nullable
    if all(isinstance(schema.get("type"), str) for schema in schemas):  # what else they say is left out, as there
        return {"type": sorted(schema["type"] for schema in schemas)} | nullable
    return {"anyOf": schemas} | nullable


def _literal(values: tuple[Any, ...], where: str) -> dict[str, Any]:
    kinds = []
    for value in values:
        if type(value) not in (str, int, float, bool, type(None)):
            raise ConfigError(f"{where} has the choice {value!r:.80}, which JSON has not")
        kinds.append(_NAMES[type(value)]["type"])
    kinds = list(dict.fromkeys(kinds))
    return {"type": kinds[0] if len(kinds) == 1 else kinds, "enum": list(values)}


def _described(text: str, where: str) -> dict[str, Any]:
    """The description, and the choices that it ends in."""
    found = _CHOICES.search(text)
    if found is None:
        return {"description": text}
    try:
        choices = json.loads(found[1])
    except ValueError:
        raise ConfigError(f"{where}: its choices must be a list of JSON, not {found[1]:.80}") from None
    choices = [choice.strip() if isinstance(choice, str) else choice for choice in choices]
    return {"enum": choices, "description": text[: found.start()].strip()}
