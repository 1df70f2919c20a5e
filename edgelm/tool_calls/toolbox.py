"""The tools of a conversation: what the model is told of them, which calls are right, and running them."""

from __future__ import annotations

import inspect
import json
import uuid
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeAlias

from edgelm.bundle.strict_json import load_json
from edgelm.errors import ConfigError, ModelError
from edgelm.results import ToolCall
from edgelm.tool_calls.parsing import NAME, FoundCall
from edgelm.tool_calls.schema import function_schema
from edgelm.tool_calls.validation import arguments_fault

MAX_TOOLS = 128
MAX_SCHEMA_BYTES = 1 << 18  # of all tools together
MAX_RESULT_CHARS = 16 << 10

Tool: TypeAlias = "Callable[..., Any] | Mapping[str, Any]"
"""A function, or a schema as in OpenAI's API: ``{"type": "function", "function": {name, description, parameters}}``."""


class Toolbox:
    """Functions and schemas that are offered to a model.

    Attributes:
        schemas: as chat templates take them.

    Raises:
        ConfigError: something is no tool, cannot be described, or is there twice; says which.
    """

    def __init__(self, tools: Iterable[Tool]) -> None:
        if isinstance(tools, (str, bytes, Mapping)) or not isinstance(tools, Iterable):
            raise ConfigError(f"tools must be a list of functions or schemas, not {type(tools).__name__}")
        self._functions: dict[str, Callable[..., Any]] = {}
        self._parameters: dict[str, Mapping[str, Any]] = {}
        self.schemas: list[dict[str, Any]] = []
        for tool in tools:
            self._add(tool)
        if not 0 < len(self.schemas) <= MAX_TOOLS:
            raise ConfigError(f"tools must be 1 to {MAX_TOOLS}, not {len(self.schemas)}")
        self.schemas = _plain(self.schemas)

    @property
    def names(self) -> tuple[str, ...]:
        """Of all tools."""
        return tuple(self._parameters)

    @property
    def functions(self) -> tuple[str, ...]:
        """The names of those that can be run here."""
        return tuple(self._functions)

    def call(self, found: FoundCall) -> ToolCall:
        """A call in an answer as callers get it: with an id, and held to the schemas."""
        return ToolCall(uuid.uuid4().hex[:9], found.name, found.arguments, self._fault(found))

    def run(self, call: ToolCall) -> str:
        """The text for the model that a call results in: what the function returns, or what went wrong.

        A result that is no text is given as JSON; a very long one is cut, and says so.

        Raises:
            ConfigError: the tool is a schema without a function.
        """
        if call.fault is not None:
            return _error(call.fault)
        function = self._functions.get(call.name)
        if function is None:
            raise ConfigError(f"tool {call.name}: it is a schema, with no function that could be run")
        try:
            return _bounded(_text(function(**_as_declared(function, call.arguments))))
        except (Exception, SystemExit) as error:  # a tool is anybody's code: the model is to hear of it
            return _bounded(_error(f"{type(error).__name__}: {error}"))

    def _add(self, tool: Tool) -> None:
        schema = dict(tool) if isinstance(tool, Mapping) else function_schema(tool)
        if "function" not in schema and "name" in schema:
            schema = {"type": "function", "function": schema}
        described = schema.get("function")
        if schema.get("type") != "function" or not isinstance(described, Mapping):
            raise ConfigError(
                f'a tool must be a function, or {{"type": "function", "function": {{…}}}}, not {tool!r:.80}'
            )
        name, parameters = described.get("name"), described.get("parameters", {})
        if not isinstance(name, str) or NAME.fullmatch(name) is None:
            raise ConfigError(f"a tool's name must be 1 to 64 letters, digits and any of _.-, not {name!r:.80}")
        if not isinstance(parameters, Mapping) or parameters.get("type", "object") != "object":
            raise ConfigError(f"tool {name}: its parameters must be a JSON schema of the type object")
        if name in self._parameters:
            raise ConfigError(f"tool {name} is there twice")
        self._parameters[name] = parameters
        self.schemas.append(schema)
        if not isinstance(tool, Mapping):
            self._functions[name] = tool

    def _fault(self, found: FoundCall) -> str | None:
        parameters = self._parameters.get(found.name)
        if parameters is None:
            return f"there is no tool {found.name!r}; tools are: {', '.join(self.names)}"
        return arguments_fault(found.arguments, parameters)


def result_message(call: ToolCall, text: str) -> dict[str, Any]:
    """The message with the result of a call, to stand behind the one that asks for it."""
    return {"role": "tool", "tool_call_id": call.id, "name": call.name, "content": text}


def _plain(schemas: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A copy of nothing but JSON, as large as a prompt may be."""
    try:
        data = json.dumps(schemas, allow_nan=False).encode()
        copied: list[dict[str, Any]] = load_json(data, what="tools", limit=MAX_SCHEMA_BYTES)
    except (TypeError, ValueError, RecursionError, ModelError) as error:
        raise ConfigError(f"the tools cannot be written as JSON: {error}") from error
    return copied


def _as_declared(function: Callable[..., Any], arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Whole numbers as ``int`` where that is asked for: to JSON, 3.0 is an integer."""
    parameters = inspect.signature(function).parameters
    whole = {name for name, parameter in parameters.items() if parameter.annotation in (int, "int")}
    return {name: int(value) if name in whole else value for name, value in arguments.items()}


def _text(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return text.encode("utf-8", "replace").decode()  # half a surrogate pair is in no vocabulary


def _bounded(text: str) -> str:
    if len(text) <= MAX_RESULT_CHARS:
        return text
    return f"{text[:MAX_RESULT_CHARS]}… (cut here; there were {len(text)} characters)"


def _error(reason: str) -> str:
    return f"error: {reason}"
