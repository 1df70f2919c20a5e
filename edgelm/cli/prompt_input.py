"""The text that a command works on: an argument, an option, a file or standard input, always UTF-8."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from edgelm.cli import console
from edgelm.errors import PromptError

# Far above what any context window holds, and little enough to be read and encoded without harm.
MAX_PROMPT_BYTES = 4 << 20
STANDARD_INPUT = "-"
_WAYS = "as an argument, with --file, or on standard input (-)"


def read_prompt(
    argument: str | None,
    option: str | None,
    file: str | None,
    *,
    what: str = "prompt",
    ways: str = _WAYS,
    limit: int = MAX_PROMPT_BYTES,
) -> str:
    """The prompt, from the one place where it was given; with none of them, from a pipe.

    Of a file or a pipe, one line break at the end belongs to the file and not to the prompt. Messages call it ``what``
    and name the ``ways`` to give it; ``limit`` is in bytes.

    Raises:
        click.UsageError: none is given, or several are.
        PromptError: it cannot be read, is too long, or is not UTF-8.
    """
    given = [place for place in (argument, option, file) if place is not None]
    if len(given) > 1:
        raise click.UsageError(f"the {what} is given more than once; give it {ways}")
    if file not in (None, STANDARD_INPUT):
        return _read_file(str(file), limit)
    text = argument if argument is not None else option
    if text is not None and text != STANDARD_INPUT:
        return checked_text(text, f"the {what}")
    if not given and console.is_terminal(sys.stdin):
        raise click.UsageError(f"there is no {what}; give it {ways}")
    if sys.stdin is None:
        raise click.UsageError(f"there is no {what}, and standard input is closed")
    return _text(sys.stdin.buffer.read(limit + 1), "standard input", limit)


def checked_text(text: str, what: str) -> str:
    """A text from the command line, whose bytes Python has let pass even if they are no UTF-8.

    Raises:
        PromptError: they are not.
    """
    from edgelm.text.prompt import decode_utf8

    return decode_utf8(text.encode("utf-8", "surrogateescape"), what)


def _read_file(name: str, limit: int) -> str:
    try:
        with Path(name).open("rb") as file:
            data = file.read(limit + 1)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise PromptError(f"{name}: {getattr(error, 'strerror', None) or error}") from error
    return _text(data, name, limit)


def _text(data: bytes, what: str, limit: int) -> str:
    from edgelm.text.prompt import decode_utf8

    if len(data) > limit:
        raise PromptError(f"{what} has more than the {limit >> 20} MiB that are read at once")
    text = decode_utf8(data, what).removeprefix("\ufeff")
    return text.removesuffix("\n").removesuffix("\r") if text.endswith("\n") else text
