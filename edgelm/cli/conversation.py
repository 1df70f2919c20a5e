"""A conversation: its messages, and their form in a file. Knows no model and no terminal."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from edgelm.bundle.publish import write_named_file
from edgelm.bundle.strict_json import load_json
from edgelm.errors import PromptError
from edgelm.text.messages import checked_messages

MAX_FILE_BYTES = 16 << 20

Message = dict[str, Any]


class Conversation:
    """A system prompt, if any, then questions and answers in turn; in between, calls of tools and their results.

    Args:
        system: what the model shall know or be beforehand.
    """

    def __init__(self, system: str | None = None) -> None:
        self.system = system
        self._turns: list[Message] = []

    @property
    def messages(self) -> list[Message]:
        """All of it, as chat templates take it."""
        system = [{"role": "system", "content": self.system}] if self.system is not None else []
        return [*system, *self._turns]

    @property
    def questions(self) -> int:
        """How many there are."""
        return sum(turn["role"] == "user" for turn in self._turns)

    def ask(self, text: str) -> None:
        """Adds a question, to be followed by ``answer`` or ``withdraw``."""
        self._turns.append({"role": "user", "content": text})

    def answer(self, text: str, calls: Sequence[Message] = ()) -> None:
        """Adds the answer to the last question, and before it the messages with calls of tools and their results."""
        self._turns += [*calls, {"role": "assistant", "content": text}]

    def withdraw(self) -> None:
        """Takes the last question back, which got no answer."""
        self._turns.pop()

    def undo(self) -> str | None:
        """Takes the last question and its answer back; returns the question, or None where there is none."""
        while self._turns:
            message = self._turns.pop()
            if message["role"] == "user":
                return str(message["content"])
        return None

    def clear(self) -> None:
        """Forgets all but the system prompt."""
        self._turns.clear()

    def save(self, file: Path) -> None:
        """Writes the messages as a JSON list.

        Raises:
            StorageError: the disk is full or not writable.
        """
        text = json.dumps(self.messages, indent=2, ensure_ascii=False)
        write_named_file(file, f"{text}\n".encode())

    @classmethod
    def load(cls, file: Path) -> Self:
        """Reads what ``save`` wrote.

        Raises:
            ManifestError: it is no strict JSON.
            PromptError: it cannot be read, or is no conversation; says where.
        """
        try:
            with file.open("rb") as stream:
                data = stream.read(MAX_FILE_BYTES + 1)
        except (OSError, ValueError) as error:  # ValueError: a NUL in the name
            raise PromptError(f"{file}: {getattr(error, 'strerror', None) or error}") from error
        return cls._of(load_json(data, what=str(file), limit=MAX_FILE_BYTES), str(file))

    @classmethod
    def _of(cls, values: Any, where: str) -> Self:
        if not isinstance(values, list):
            raise PromptError(f"{where}: must be a list of messages, not {type(values).__name__}")
        messages = [_message(value, f"{where}: [{index}]") for index, value in enumerate(values)]
        conversation = cls()
        if messages and messages[0]["role"] == "system":
            conversation.system = messages.pop(0)["content"]
        _check_turns(messages, first=len(values) - len(messages), where=where)
        conversation._turns = messages
        return conversation


_FIELDS = {
    "system": {"role", "content"},
    "user": {"role", "content"},
    "assistant": {"role", "content"},
    "tool": {"role", "content", "tool_call_id", "name"},
}


def _message(value: Any, where: str) -> Message:
    role = value.get("role") if isinstance(value, Mapping) else None
    if not isinstance(role, str) or set(value) - {"tool_calls"} != _FIELDS.get(role, {"role", "content"}):
        raise PromptError(f"{where} must be an object with role and content, and nothing else")
    message = dict(value)
    calls = message.pop("tool_calls", None)
    if not all(isinstance(field, str) for field in message.values()):
        raise PromptError(f"{where}: role and content must be strings")
    if "tool_calls" in value:
        if role != "assistant" or not isinstance(calls, list) or not calls:
            raise PromptError(f"{where}: tool_calls must be a list of calls, of the role 'assistant'")
        message["tool_calls"] = checked_messages([value])[0]["tool_calls"]
    return message


def _check_turns(turns: Sequence[Message], *, first: int, where: str) -> None:
    due: tuple[str, ...] = ("user",)
    for index, turn in enumerate(turns):
        if turn["role"] not in due:
            named = " or ".join(map(repr, due))
            raise PromptError(f"{where}: [{first + index}] must be of the role {named}, not {turn['role']!r:.80}")
        if turn["role"] == "assistant":
            due = ("tool",) if "tool_calls" in turn else ("user",)
        else:
            due = ("assistant",) if turn["role"] == "user" else ("tool", "assistant")
    if due != ("user",):
        raise PromptError(f"{where}: the last question has no answer")
