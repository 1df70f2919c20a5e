"""Runs the tools that a model asks for, each only after the user agreed."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Sequence
from typing import Any

from edgelm.cli import console
from edgelm.results import ToolCall
from edgelm.tool_calls.rounds import REFUSED
from edgelm.tool_calls.toolbox import Toolbox, result_message

_SHOWN_RESULT = 200
_QUESTION = "run it? [y]es, [n]o, [a]lways in this conversation: "


class ToolRunner:
    """The tools of one conversation.

    Args:
        toolbox: functions.
        ask: ask before each is run; else they are run at once.
    """

    def __init__(self, toolbox: Toolbox, *, ask: bool) -> None:
        self.toolbox = toolbox
        self._ask = ask
        self._always: set[str] = set()

    def results(self, calls: Sequence[ToolCall]) -> list[dict[str, Any]]:
        """Runs them in order, and returns the messages with what came out.

        Raises:
            KeyboardInterrupt: the user wants back to the prompt.
        """
        return [result_message(call, self._run(call)) for call in calls]

    def _run(self, call: ToolCall) -> str:
        console.say(f"→ {printable(call)}")
        if call.fault is None and not self._is_allowed(call.name):
            return REFUSED
        # Answers alone belong on stdout, so what a tool prints goes where all else does.
        with contextlib.redirect_stdout(sys.stderr):
            result = self.toolbox.run(call)
        shown = console.one_line(result)
        console.say(f"← {shown[:_SHOWN_RESULT]}{'…' * (len(shown) > _SHOWN_RESULT)}")
        return result

    def _is_allowed(self, name: str) -> bool:
        if not self._ask or name in self._always:
            return True
        while True:
            console.draw(_QUESTION)
            line = sys.stdin.readline()
            word = line.strip().lower()
            if word in ("a", "always"):
                self._always.add(name)
                return True
            if word in ("y", "yes"):
                return True
            if not line or word in ("", "n", "no"):
                return False


def printable(call: ToolCall) -> str:
    """``name(city="Rome")`` on one line, all of it; what is not printable, or turns the writing round, is escaped."""
    arguments = ", ".join(f"{name}={json.dumps(value, ensure_ascii=False)}" for name, value in call.arguments.items())
    text = f"{call.name}({arguments})"
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
