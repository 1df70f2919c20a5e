"""``edgelm fill-mask``: what may stand in the gaps of a text."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from edgelm.cli import console
from edgelm.cli.help_page import PagedCommand, examples
from edgelm.cli.installed import ensure_installed
from edgelm.cli.interrupt import prompt_exit
from edgelm.cli.loading import load_encoder_folder
from edgelm.cli.options import MachineOptions, file_option, json_option, machine_options
from edgelm.cli.prompt_input import checked_text, read_prompt
from edgelm.cli.units import table

if TYPE_CHECKING:
    from edgelm.tasks.fill_mask import FilledText

_EXAMPLES = """
edgelm fill-mask ./my-masked-model "The capital of France is [MASK]."
edgelm fill-mask ./my-masked-model "She is a [MASK]." --targets doctor,nurse --json
"""


@click.command(cls=PagedCommand, epilog=examples(_EXAMPLES))
@click.argument("model")
@click.argument("text", required=False)
@file_option("text")
@click.option("--top-k", type=click.IntRange(min=1), default=5, metavar="N", help="Most fillings of a gap.  [5]")
@click.option("--targets", metavar="A,B,…", help="Compare these tokens only.")
@machine_options
@json_option
def command(
    model: str,
    text: str | None,
    file: str | None,
    top_k: int,
    targets: str | None,
    machine: MachineOptions,
    as_json: bool,
) -> None:
    """Fill the gaps of a text.

    A gap is marked with the model's mask token, [MASK] or <mask>. TEXT may also come from a file, or on standard
    input (-, or no text and a pipe). Each line of the answer has the probability, the token, and the text with it.
    """
    given = read_prompt(text, None, file, what="text")
    wanted = None if targets is None else checked_text(targets, "--targets").split(",")
    folder = ensure_installed(model, offline=machine.offline, max_memory=machine.max_memory)
    with prompt_exit(), load_encoder_folder(folder, machine) as encoder:
        from edgelm.tasks.fill_mask import MaskFiller

        (filled,) = MaskFiller(encoder).fill([given], top_k=top_k, targets=wanted)
        if as_json:
            console.answer_json({"model": encoder.name, **filled.as_dict()})
        else:
            console.answer(_lines(filled) + "\n")


def _lines(filled: FilledText) -> str:
    header: tuple[str, ...] = ("score", "token", "text")
    rows: list[tuple[str, ...]] = []
    for number, gap in enumerate(filled.gaps, start=1):
        for filling in gap:
            row = f"{filling.score:.3g}", console.one_line(filling.token_str), console.one_line(filling.sequence)
            rows.append(row if len(filled.gaps) == 1 else (str(number), *row))
    return table(header if len(filled.gaps) == 1 else ("gap", *header), rows)
