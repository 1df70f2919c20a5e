"""``edgelm ner``: names and other entities in a text."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import click

from edgelm.cli import console
from edgelm.cli.help_page import PagedCommand, examples
from edgelm.cli.installed import ensure_installed
from edgelm.cli.interrupt import prompt_exit
from edgelm.cli.loading import load_encoder_folder
from edgelm.cli.options import MachineOptions, file_option, json_option, machine_options
from edgelm.cli.prompt_input import read_prompt
from edgelm.cli.units import table

if TYPE_CHECKING:
    from edgelm.tasks.entities import Aggregation, Entity

# A test holds them to what the task knows: asking it here would import it for a help page.
AGGREGATIONS = ("none", "simple", "first", "average", "max")
_EXAMPLES = """
edgelm ner ./my-ner-model "Ada Lovelace was born in London."
edgelm ner ./my-ner-model --aggregation first --json < letter.txt
"""


@click.command(cls=PagedCommand, epilog=examples(_EXAMPLES))
@click.argument("model")
@click.argument("text", required=False)
@file_option("text")
@click.option(
    "--aggregation",
    type=click.Choice(AGGREGATIONS),
    default="simple",
    show_default=True,
    help="Label each token for itself (none), or join neighbours; but for simple, words have one label.",
)
@machine_options
@json_option
def command(
    model: str, text: str | None, file: str | None, aggregation: str, machine: MachineOptions, as_json: bool
) -> None:
    """Find names and other entities.

    TEXT may also come from a file, or on standard input (-, or no text and a pipe), and may be of any length. Each
    line of the answer has the label, its probability, the place in characters, and the text there.
    """
    given = read_prompt(text, None, file, what="text")
    folder = ensure_installed(model, offline=machine.offline, max_memory=machine.max_memory)
    with prompt_exit(), load_encoder_folder(folder, machine) as encoder:
        from edgelm.tasks.token_classification import TokenClassifier

        (entities,) = TokenClassifier(encoder).classify([given], aggregation=cast("Aggregation", aggregation))
        if as_json:
            fields = {"model": encoder.name, "entities": [entity.as_dict() for entity in entities]}
            console.answer_json(fields)
        elif entities:
            console.answer(
                table(("label", "score", "place", "text"), [_row(entity, given) for entity in entities]) + "\n"
            )
        else:
            console.say("no entities")


def _row(entity: Entity, text: str) -> tuple[str, ...]:
    shown = console.one_line(text[entity.start : entity.end])
    return entity.label, f"{entity.score:.3f}", f"{entity.start}-{entity.end}", shown
