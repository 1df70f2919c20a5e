"""The text that a command works on: an argument, an option, a file or standard input, always UTF-8."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from edgelm.cli import console
from edgelm.cli.standard_input import has_unread, is_piped, read_piped
from edgelm.cli.units import size_text
from edgelm.errors import PromptError
from edgelm.text.utf8 import decode_utf8

# Far above what any context window holds, and little enough to be read and encoded without harm.
MAX_PROMPT_BYTES = 4_000_000
STANDARD_INPUT = "-"
_WAYS = "as an argument, with --file, or on standard input (-)"
_WAITING = "reading standard input, which is put before the prompt; to leave it out: < /dev/null"


def read_prompt(
    argument: str | None,
    option: str | None,
    file: str | None,
    *,
    what: str = "prompt",
    ways: str = _WAYS,
    limit: int = MAX_PROMPT_BYTES,
    keep_end: bool = False,
) -> str:
    """The prompt, from the one place where it was given; with none of them, from a pipe.

    Of a file or a pipe, one line break at the end belongs to the file and not to the prompt, unless ``keep_end``
    asks for it. Messages call it ``what``
    and name the ``ways`` to give it; ``limit`` is in bytes.

    Raises:
        click.UsageError: none is given, or several are.
        PromptError: it cannot be read, is too long, or is not UTF-8.
    """
    text = _given(argument, option, file, what, ways, limit)
    if text is not None:
        tell_unread(what)
    else:
        text = _from_standard_input(STANDARD_INPUT in (argument, option, file), what, ways, limit)
    is_argument = STANDARD_INPUT not in (argument, option) and (argument, option) != (None, None)
    return text if keep_end or is_argument else _without_end(text)


def read_prompt_in_context(argument: str | None, option: str | None, file: str | None) -> str:
    """The prompt as ``read_prompt`` finds it; a file, or what is piped in, beside it is put before it, as its context.

    Raises:
        click.UsageError, PromptError: see ``read_prompt``; an empty pipe is no prompt, unless it was asked for (-).
            Beside a prompt both a file and a pipe have a text.
    """
    if file is not None and (argument, option) != (None, None):
        return _behind_file(argument, option, file)
    prompt = _given(argument, option, file, "prompt", _WAYS, MAX_PROMPT_BYTES)
    if prompt is not None and file is not None:
        prompt = _without_end(prompt)
    if prompt is None:
        piped = read_prompt(argument, option, file)
        if not piped and (argument, option, file) == (None, None, None):
            raise click.UsageError(f"there is no prompt, and standard input is empty; give it {_WAYS}")
        return piped
    if not is_piped():
        tell_unread("prompt")
        return prompt
    return _in_context(prompt, _piped_context())


def tell_unread(what: str) -> None:
    """Warns where something waits on standard input, which is not read because ``what`` was given in another way."""
    if has_unread():
        console.warning(f"standard input is not read: the {what} is given already")


def checked_text(text: str, what: str) -> str:
    """A text from the command line, whose bytes Python has let pass even if they are no UTF-8.

    Raises:
        PromptError: they are not.
    """
    return decode_utf8(text.encode("utf-8", "surrogateescape"), what)


def _behind_file(argument: str | None, option: str | None, file: str) -> str:
    """The prompt behind the text of a file."""
    if file == STANDARD_INPUT in (argument, option):
        raise click.UsageError("standard input (-) is either the prompt or the file that is its context, not both")
    prompt = read_prompt(argument, option, None) if STANDARD_INPUT in (argument, option) else None
    if prompt is None:
        prompt = _given(argument, option, None, "prompt", _WAYS, MAX_PROMPT_BYTES) or ""
        if file != STANDARD_INPUT and is_piped() and _piped_context().strip():
            raise click.UsageError("beside the prompt there are a file and standard input: its context is one of them")
    return _in_context(prompt, read_prompt(None, None, file, what="context"))


def _piped_context() -> str:
    return _without_end(_text(read_piped(MAX_PROMPT_BYTES, _WAITING), "standard input", MAX_PROMPT_BYTES))


def _in_context(prompt: str, context: str) -> str:
    return f"{context}\n\n{prompt}" if context.strip() else prompt


def _given(argument: str | None, option: str | None, file: str | None, what: str, ways: str, limit: int) -> str | None:
    """The prompt, if it is not on standard input."""
    given = [place for place in (argument, option, file) if place is not None]
    if len(given) > 1:
        raise click.UsageError(f"the {what} is given more than once; give it {ways}")
    if not given or given == [STANDARD_INPUT]:
        return None
    return read_file(given[0], limit) if file is not None else checked_text(given[0], f"the {what}")


def _from_standard_input(asked: bool, what: str, ways: str, limit: int) -> str:
    """``asked``: whether it was named, so that it may be a terminal."""
    if not asked and console.is_terminal(sys.stdin):
        raise click.UsageError(f"there is no {what}; give it {ways}")
    if sys.stdin is None:
        raise click.UsageError(f"there is no {what}, and standard input is closed; give it {ways}")
    return _text(sys.stdin.buffer.read(limit + 1), "standard input", limit)


def read_file(name: str, limit: int) -> str:
    """The text of a file of at most ``limit`` bytes, without one line break at its end.

    Raises:
        PromptError: it cannot be read, is too long, or is not UTF-8.
    """
    try:
        with Path(name).open("rb") as file:
            data = file.read(limit + 1)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise PromptError(f"{name}: {getattr(error, 'strerror', None) or error}") from error
    return _text(data, name, limit)


def _text(data: bytes, what: str, limit: int) -> str:
    if len(data) > limit:
        raise PromptError(f"{what} has more than the {size_text(limit)} that are read at once; give it in parts")
    return decode_utf8(data, what).removeprefix("\ufeff")


def _without_end(text: str) -> str:
    return text.removesuffix("\n").removesuffix("\r") if text.endswith("\n") else text
