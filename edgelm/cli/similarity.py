"""``edgelm similarity``: how alike texts are in meaning."""

from __future__ import annotations

import click

from edgelm.cli import console
from edgelm.cli.help_page import PagedCommand, examples
from edgelm.cli.installed import ensure_installed
from edgelm.cli.interrupt import prompt_exit
from edgelm.cli.loading import load_encoder_folder
from edgelm.cli.options import MachineOptions, file_option, json_option, machine_options, truncate_option
from edgelm.cli.text_input import places_as_given, read_texts
from edgelm.cli.units import table

_EXAMPLES = """
edgelm similarity minilm "A cat sits outside." "Kittens play in the garden." "Stocks fell."
edgelm similarity minilm -f sentences.txt --json
"""


@click.command(cls=PagedCommand, epilog=examples(_EXAMPLES))
@click.argument("model")
@click.argument("texts", nargs=-1, metavar="[TEXT]...")
@file_option("texts", each_line=True)
@truncate_option
@machine_options
@json_option
def command(
    model: str,
    texts: tuple[str, ...],
    file: str | None,
    truncate: bool,
    machine: MachineOptions,
    as_json: bool,
) -> None:
    """Compare texts by meaning.

    Each text is compared with each: the cosine of the angle between their vectors, from -1 to 1. The texts, two or
    more, are arguments, or the lines of a file or of standard input; an empty line is a text, too.
    """
    given = read_texts(texts, file)
    if len(given) < 2:
        raise click.UsageError("there is one text only; give two or more")
    folder = ensure_installed(model, offline=machine.offline, max_memory=machine.max_memory)
    with prompt_exit(), places_as_given(texts), load_encoder_folder(folder, machine) as encoder:
        from edgelm.tasks.similarity import similarity_matrix

        matrix = similarity_matrix(encoder, given, truncation=truncate)
        name = encoder.name
    if as_json:
        fields = {"model": name, "texts": given, "similarities": [[round(float(x), 6) for x in row] for row in matrix]}
        console.answer_json(fields)
        return
    numbers = [str(number) for number in range(1, len(given) + 1)]
    rows = [
        (number, *(f"{cosine:.3f}" for cosine in row), console.one_line(text))
        for number, row, text in zip(numbers, matrix, given, strict=True)
    ]
    console.answer(table(("", *numbers, "text"), rows) + "\n")
