"""``edgelm summarize``: a text or a dialogue in a few sentences."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import click

from edgelm.cli import console
from edgelm.cli.answers import cost_line
from edgelm.cli.generation_options import generation_options, refuse_unseen_logprobs
from edgelm.cli.help_page import PagedCommand, SectionOption, examples
from edgelm.cli.installed import ensure_installed
from edgelm.cli.interrupt import prompt_exit
from edgelm.cli.loading import load_folder
from edgelm.cli.options import (
    MachineOptions,
    file_option,
    json_option,
    machine_options,
    verbose_option,
)
from edgelm.cli.progress_bar import shown_progress
from edgelm.cli.prompt_input import read_prompt

_TEXT = "Text"
_EXAMPLES = """
edgelm summarize smollm2 -f report.txt
edgelm summarize smollm2 --dialogue -n 80 < chat.txt
edgelm summarize hf:sshleifer/distilbart-cnn-12-6 --json "A long text."
"""


@click.command(cls=PagedCommand, epilog=examples(_EXAMPLES))
@click.argument("model")
@click.argument("text", required=False)
@file_option("text", section=_TEXT)
@click.option(
    "--dialogue/--no-dialogue",
    default=None,
    cls=SectionOption,
    section=_TEXT,
    help="Whether the lines are turns, such as Ann: Hello; default: look.",
)
@generation_options
@machine_options
@json_option
@verbose_option
def command(
    model: str,
    text: str | None,
    file: str | None,
    dialogue: bool | None,
    generation: dict[str, Any],
    machine: MachineOptions,
    as_json: bool,
    verbose: bool,
) -> None:
    """Summarize a text or a dialogue.

    TEXT may also come from a file, or on standard input (-, or no text and a pipe). A text above the context window, or
    above the one that --max-memory has room for, is summarized in parts, and the parts' summaries together: nothing is
    cut off.
    """
    refuse_unseen_logprobs(generation, "edgelm run --json")
    given = read_prompt(text, None, file, what="text")
    if machine.max_memory is not None and machine.context_length is None:
        machine = replace(machine, context_length="auto")
    folder = ensure_installed(model, offline=machine.offline, max_memory=machine.max_memory)
    with prompt_exit(), load_folder(folder, machine) as lm, shown_progress() as progress:
        from edgelm.tasks.summarization import Summarizer

        summary = Summarizer(lm, progress=progress, **generation).summarize(given, dialogue=dialogue)
        if as_json:
            fields = {"model": lm.bundle.manifest.name, **summary.as_dict()}
            console.answer_json(fields)
        else:
            console.answer(summary.text + "\n")
        if verbose:
            for answer in summary.answers:
                console.say(cost_line(answer))
