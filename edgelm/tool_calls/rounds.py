"""The loop of tool calling: the model asks, functions are run, it is told, until it answers in words."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from edgelm.checks import check_int
from edgelm.config import DEFAULT_TOOL_ROUNDS
from edgelm.errors import ConfigError
from edgelm.results import GenerationResult, ToolCall
from edgelm.tool_calls.offer import Tools, as_toolbox
from edgelm.tool_calls.toolbox import Toolbox, result_message

MAX_ROUNDS = 1000
REFUSED = "error: the user does not allow this call"

Messages: TypeAlias = Sequence[Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class ToolAnswer:
    """What came of a conversation with tools.

    Attributes:
        result: the last answer. If the rounds were used up, its ``finish_reason`` is still ``tool_calls``, and these
            calls were not run.
        messages: what was added to the conversation, from the first call to the last answer.
    """

    result: GenerationResult
    messages: tuple[dict[str, Any], ...]

    @property
    def text(self) -> str:
        """Of the last answer."""
        return self.result.text


def runnable(tools: Tools) -> Toolbox:
    """The toolbox, all of whose tools are functions.

    Raises:
        ConfigError: one is a schema; names it.
    """
    box = as_toolbox(tools)
    for name in box.names:
        if name not in box.functions:
            raise ConfigError(f"tool {name} is a schema, with no function that could be run; chat gives its calls")
    return box


def answer_with_tools(
    ask: Callable[[Messages], GenerationResult],
    messages: Messages,
    tools: Toolbox,
    *,
    max_rounds: int = DEFAULT_TOOL_ROUNDS,
    run: Callable[[ToolCall], str] | None = None,
) -> ToolAnswer:
    """Asks, runs what is called for, and asks again, until an answer calls for nothing.

    Args:
        ask: has the model answer a conversation.
        messages: the conversation, which is left as it is.
        tools: what it may call.
        max_rounds: answers that the model may take.
        run: runs one call in place of ``tools.run``: to ask somebody first, for example.

    Raises:
        ConfigError: ``max_rounds`` is out of range.
    """
    check_int("max_rounds", max_rounds, 1, MAX_ROUNDS)
    added: list[dict[str, Any]] = []
    for left in reversed(range(max_rounds)):
        result = ask([*messages, *added])
        added.append(result.as_message())
        if result.finish_reason != "tool_calls" or not left:
            break
        added += [result_message(call, (run or tools.run)(call)) for call in result.tool_calls]
    return ToolAnswer(result, tuple(added))
