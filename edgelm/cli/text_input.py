"""Several texts for one command: arguments, or the lines of a file or of standard input."""

from __future__ import annotations

from collections.abc import Sequence

import click

from edgelm.cli.prompt_input import STANDARD_INPUT, checked_text, read_prompt


def read_texts(arguments: Sequence[str], file: str | None, *, what: str = "text") -> list[str]:
    """The texts, at least one; empty lines of a file are none.

    Raises:
        click.UsageError: none is given, or both ways are used.
        PromptError: they cannot be read, are too long, or are not UTF-8.
    """
    if arguments and file is not None:
        raise click.UsageError(f"the {what}s are given twice; give arguments or --file")
    if arguments and list(arguments) != [STANDARD_INPUT]:
        return [checked_text(text, f"the {what}") for text in arguments]
    ways = "as arguments, with --file (one a line), or on standard input (-)"
    whole = read_prompt(None, None, STANDARD_INPUT if arguments else file, what=what, ways=ways)
    lines = [line for line in whole.splitlines() if line.strip()]
    if not lines:
        raise click.UsageError(f"there is no {what}; give it {ways}")
    return lines
