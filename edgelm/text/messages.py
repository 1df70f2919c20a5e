"""The messages of a chat: their form, and the one shape that templates are given."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from edgelm.errors import PromptError

ROLES = ("system", "user", "assistant", "tool")


def checked_messages(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Copies of the messages, contents given in parts joined by line breaks.

    A message has a ``role`` (string) and a ``content``: a string, or a list of ``{"type": "text", "text": …}``. The
    content may be missing or None beside ``tool_calls``, whose arguments may be an object, or the JSON of one as in
    OpenAI's API; templates get the object. Other fields are left as they are.

    Raises:
        PromptError: there is no message, or one is not of that form; names its index and field.
    """
    if isinstance(messages, (str, bytes, Mapping)) or not isinstance(messages, Sequence):
        raise PromptError(f"messages must be a list of messages, not {type(messages).__name__}")
    if not messages:
        raise PromptError("messages must have at least one message")
    return [_checked(message, f"messages[{index}]") for index, message in enumerate(messages)]


def check_roles(messages: Sequence[Mapping[str, Any]]) -> None:
    """Refuses roles that no chat template is made for.

    Raises:
        PromptError: there is one; names its index and those that there are.
    """
    for index, message in enumerate(messages):
        if message["role"] not in ROLES:
            raise PromptError(f"messages[{index}].role must be one of {', '.join(ROLES)}, not {message['role']!r:.80}")


def _checked(message: Mapping[str, Any], where: str) -> dict[str, Any]:
    if not isinstance(message, Mapping):
        raise PromptError(f"{where} must be an object with role and content, not {type(message).__name__}")
    role = message.get("role")
    if not isinstance(role, str) or not role:
        raise PromptError(f"{where}.role must be a non-empty string, not {role!r:.80}")
    checked = dict(message)
    if message.get("tool_calls"):
        checked["tool_calls"] = _checked_calls(message["tool_calls"], f"{where}.tool_calls")
    content = message.get("content")
    if content is None and message.get("tool_calls"):
        return checked
    if isinstance(content, Sequence) and not isinstance(content, (str, bytes)):
        checked["content"] = "\n".join(_part_text(part, f"{where}.content[{i}]") for i, part in enumerate(content))
    elif not isinstance(content, str):
        raise PromptError(f"{where}.content must be a string or a list of text parts, not {content!r:.80}")
    return checked


def _checked_calls(calls: Any, where: str) -> list[Any]:
    if not isinstance(calls, Sequence) or not all(isinstance(call, Mapping) for call in calls):
        raise PromptError(f"{where} must be a list of calls, not {calls!r:.80}")
    return [_checked_call(call, f"{where}[{index}]") for index, call in enumerate(calls)]


def _checked_call(call: Mapping[str, Any], where: str) -> dict[str, Any]:
    function = call.get("function", call)
    if not isinstance(function, Mapping):
        raise PromptError(f"{where} must have a function with a name and arguments, not {call!r:.80}")
    arguments = function.get("arguments", {})
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
        except (ValueError, RecursionError):
            arguments = None
    if not isinstance(arguments, Mapping):
        raise PromptError(f"{where}: the arguments must be an object, not {function.get('arguments')!r:.80}")
    changed = {**function, "arguments": dict(arguments)}
    return {**call, "function": changed} if "function" in call else changed


def _part_text(part: Any, where: str) -> str:
    text = part.get("text") if isinstance(part, Mapping) and part.get("type") == "text" else None
    if not isinstance(text, str):
        raise PromptError(f'{where} must be {{"type": "text", "text": "…"}}, not {part!r:.80}')
    return text
