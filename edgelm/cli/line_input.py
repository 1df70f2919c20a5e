"""What a user types or pipes into a conversation, line by line."""

from __future__ import annotations

import contextlib
import sys

from edgelm.cli import console
from edgelm.cli.prompt_input import MAX_PROMPT_BYTES
from edgelm.cli.units import size_text
from edgelm.errors import PromptError
from edgelm.text.utf8 import decode_utf8

PROMPT = ">>> "
CONTINUED = "... "
_FENCE = '"""'


class LineInput:
    """Reads messages from stdin; prompts, history and line editing are for terminals only.

    Attributes:
        is_interactive: whether somebody types.
        number: the line that the last message began with, counted from 1.
    """

    def __init__(self) -> None:
        self.number = 0
        self._lines = 0
        self.is_interactive = console.is_terminal(sys.stdin)
        # Line editing writes the prompt to stdout, where only answers belong unless that is a terminal as well.
        self._edits = self.is_interactive and console.is_terminal(sys.stdout)
        self._consumed = 0
        if self._edits:
            with contextlib.suppress(ImportError):  # Windows has it in the console itself
                import readline  # noqa: F401, importing it is what gives input() history and editing

    def message(self) -> str | None:
        """The next message: a line, or all between two marks of three quotes; None at the end of the input.

        Raises:
            PromptError: a line is not UTF-8, too long, or the closing quotes never come.
        """
        self.number = self._lines + 1
        line = self._line(PROMPT)
        if line is None or not line.lstrip().startswith(_FENCE):
            return line
        lines = [line.lstrip().removeprefix(_FENCE)]
        while not lines[-1].rstrip().endswith(_FENCE):
            following = self._line(CONTINUED)
            if following is None:
                raise PromptError(f"the text that {_FENCE} began does not end with {_FENCE}")
            lines.append(following)
        lines[-1] = lines[-1].rstrip().removesuffix(_FENCE)
        return "\n".join(lines).strip("\n")

    def _line(self, prompt: str) -> str | None:
        self._lines += 1
        if not self.is_interactive:
            return self._piped_line()
        try:
            return input(prompt) if self._edits else self._plain_line(prompt)
        except EOFError:
            return None
        except UnicodeDecodeError as error:
            raise PromptError(f"the line is not UTF-8: invalid byte at offset {error.start}") from error

    def _plain_line(self, prompt: str) -> str | None:
        console.draw(prompt)
        line = sys.stdin.readline()
        return line.rstrip("\r\n") if line else None

    def _piped_line(self) -> str | None:
        if sys.stdin is None:
            return None
        data = sys.stdin.buffer.readline(MAX_PROMPT_BYTES + 1)
        if len(data) > MAX_PROMPT_BYTES:
            raise PromptError(f"a line has more than the {size_text(MAX_PROMPT_BYTES)} that a message may have")
        text = decode_utf8(data, f"standard input from byte {self._consumed} on") if data else None
        self._consumed += len(data)
        return None if text is None else text.rstrip("\r\n")
