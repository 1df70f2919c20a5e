"""How help pages look: commands and options in sections, examples at the end."""

from __future__ import annotations

from typing import Any

import click

# One line a command, so that the overview needs none of their modules; a test holds both to the same words.
SUB_COMMANDS: dict[str, dict[str, str]] = {
    "Use a model": {
        "run": "Answer one prompt.",
        "chat": "Hold a conversation.",
        "ner": "Find names and other entities.",
        "qa": "Find the answer to a question in a document.",
        "fill-mask": "Fill the gaps of a text.",
        "summarize": "Summarize a text or a dialogue.",
        "translate": "Translate a text of any length.",
        "classify": "Label texts.",
        "embed": "Turn texts into vectors.",
        "similarity": "Compare texts by meaning.",
        "rerank": "Put passages in order of how well they answer a query.",
        "templates": "List prompt templates, or print one.",
    },
    "Understand a model": {
        "compare": "Answer prompts with several settings, seeds and models, side by side.",
        "explain": "Show how each token was chosen.",
        "attention": "Show what the layers of a model attend to.",
        "replay": "Run a recorded answer again, and compare.",
    },
    "Manage models": {
        "doctor": "Show what this machine has, and which models fit.",
        "pull": "Fetch a model and convert it.",
        "list": "List the models that are installed (alias: ls).",
        "show": "Show what a model is and what it needs.",
        "rm": "Delete installed models.",
    },
    "Make models": {
        "export": "Convert a checkpoint into a bundle.",
        "quantize": "Make another quantization of a model.",
        "bench": "Measure a model's speed and memory.",
    },
}

OWN = "Options"
GENERAL = "General"
HELP_NAMES = {"help_option_names": ["-h", "--help"]}


class SectionOption(click.Option):
    """An option that belongs to a section of the help page."""

    def __init__(self, *arguments: Any, section: str = OWN, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self.section = section


class PagedCommand(click.Command):
    """A command whose options are shown by section: its own first, what all commands have last."""

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        own = {**HELP_NAMES, "allow_extra_args": True}
        super().__init__(*arguments, **{"context_settings": own, **settings})

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """As click does; too many arguments are mostly one, whose quotes were forgotten."""
        rest = super().parse_args(ctx, args)
        if rest and not ctx.resilient_parsing:
            ctx.fail(f"unexpected argument {rest[0]!r:.80}: put a text of several words in quotes")
        return rest

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Writes the options."""
        sections: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.params:
            record = parameter.get_help_record(ctx) if isinstance(parameter, click.Option) else None
            if record is not None:
                sections.setdefault(getattr(parameter, "section", OWN), []).append(record)
        usual = self.get_help_option(ctx)
        record = None if usual is None else usual.get_help_record(ctx)
        if record is not None:
            sections.setdefault(GENERAL if len(sections) > 1 else OWN, []).append(record)
        for section, records in sorted(sections.items(), key=lambda item: (item[0] == GENERAL, item[0] != OWN)):
            with formatter.section(section):
                formatter.write_dl(records)


def examples(lines: str) -> str:
    """An epilog that shows command lines as they are (click's mark for that is a backspace)."""
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines.strip().splitlines())
