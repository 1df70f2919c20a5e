"""Several texts for one command: arguments, or the lines of a file or of standard input."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import click

from edgelm.cli.prompt_input import STANDARD_INPUT, checked_text, read_prompt, tell_unread
from edgelm.errors import PromptError

# Of all texts together; they and their results are held until the last is done.
MAX_BYTES = 256_000_000
_LINE_BREAK = re.compile(r"\r\n?|\n")


def read_texts(arguments: Sequence[str], file: str | None, *, what: str = "text") -> list[str]:
    """The texts, at least one; of a file or pipe, one for each line, so that empty lines are empty texts.

    Raises:
        click.UsageError: none is given, or both ways are used.
        PromptError: they cannot be read, are too long, or are not UTF-8.
    """
    if arguments and file is not None:
        raise click.UsageError(f"the {what}s are given twice; give arguments or --file")
    if arguments and list(arguments) != [STANDARD_INPUT]:
        tell_unread(what)
        return [checked_text(text, f"the {what}") for text in arguments]
    ways = "as arguments, with --file (one a line), or on standard input (-)"
    whole = read_prompt(None, None, STANDARD_INPUT if arguments else file, what=what, ways=ways, limit=MAX_BYTES)
    # Not str.splitlines, which also breaks at form feeds and at U+2028: those are within a text.
    if not whole.strip():
        raise click.UsageError(f"there is no {what}; give it {ways}")
    return _LINE_BREAK.split(whole)


@contextmanager
def places_as_given(arguments: Sequence[str]) -> Iterator[None]:
    """Has refusals of one text name its line, or its place among the arguments, both counted from 1."""
    unit = "text" if arguments and list(arguments) != [STANDARD_INPUT] else "line"
    try:
        yield
    except PromptError as error:
        if error.place is None:
            raise
        named = str(error).replace(f"text {error.place}", f"{unit} {error.place + 1}", 1)
        raise type(error)(named, place=error.place) from error
