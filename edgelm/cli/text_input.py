"""Several texts for one command: arguments, or the lines of a file or of standard input."""

from __future__ import annotations

import re
from collections.abc import Sequence

import click

from edgelm.cli.prompt_input import STANDARD_INPUT, checked_text, read_prompt, tell_unread

# Of all texts together; they and their results are held until the last is done.
MAX_BYTES = 256_000_000
_LINE_BREAK = re.compile(r"\r\n?|\n")


def read_texts(arguments: Sequence[str], file: str | None, *, what: str = "text") -> list[str]:
    """The texts, at least one; empty lines of a file are none.

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
    lines = [line for line in _LINE_BREAK.split(whole) if line.strip()]
    if not lines:
        raise click.UsageError(f"there is no {what}; give it {ways}")
    return lines
