"""``edgelm rerank``: passages in order of how well they answer a query."""

from __future__ import annotations

import click

from edgelm.cli import console
from edgelm.cli.help_page import PagedCommand, examples
from edgelm.cli.installed import ensure_installed
from edgelm.cli.interrupt import prompt_exit
from edgelm.cli.loading import load_encoder_folder
from edgelm.cli.options import MachineOptions, file_option, json_option, machine_options, truncate_option
from edgelm.cli.prompt_input import checked_text
from edgelm.cli.text_input import read_texts
from edgelm.cli.units import table

_EXAMPLES = """
edgelm rerank minilm "How do I reset my password?" -f answers.txt --top-k 3
edgelm rerank hf:cross-encoder/ms-marco-MiniLM-L-6-v2 "capital of France" "Paris is a city." "Bread is baked."
"""


@click.command(cls=PagedCommand, epilog=examples(_EXAMPLES))
@click.argument("model")
@click.argument("query")
@click.argument("passages", nargs=-1, metavar="[PASSAGE]...")
@file_option("passages", each_line=True)
@click.option("--top-k", type=click.IntRange(min=1), metavar="N", help="Most passages; default: all.")
@truncate_option
@machine_options
@json_option
def command(
    model: str,
    query: str,
    passages: tuple[str, ...],
    file: str | None,
    top_k: int | None,
    truncate: bool,
    machine: MachineOptions,
    as_json: bool,
) -> None:
    """Put passages in order of how well they answer a query.

    MODEL is a cross-encoder, which reads both together, or one that makes vectors. The passages are arguments, or the
    lines of a file or of standard input, empty ones too: the index in --json is the line's, counted from 0.
    """
    asked = checked_text(query, "the query")
    given = read_texts(passages, file, what="passage")
    folder = ensure_installed(model, offline=machine.offline, max_memory=machine.max_memory)
    with prompt_exit(), load_encoder_folder(folder, machine) as encoder:
        from edgelm.tasks.ranking import Ranker

        ranked = Ranker(encoder).rank(asked, given, top_k=top_k, truncation=truncate)
        name = encoder.name
    if as_json:
        fields = {"model": name, "query": asked, "results": [passage.as_dict() for passage in ranked]}
        console.answer_json(fields)
    else:
        rows = [(f"{passage.score:.3f}", console.one_line(passage.text)) for passage in ranked]
        console.answer(table(("score", "passage"), rows) + "\n")
