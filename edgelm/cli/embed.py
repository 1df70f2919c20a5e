"""``edgelm embed``: vectors of texts."""

from __future__ import annotations

from pathlib import Path

import click

from edgelm.cli.help_page import PagedCommand, examples
from edgelm.cli.installed import ensure_installed
from edgelm.cli.interrupt import prompt_exit
from edgelm.cli.loading import load_encoder_folder
from edgelm.cli.options import MachineOptions, file_option, json_option, machine_options, truncate_option
from edgelm.cli.text_input import places_as_given, read_texts

# A test holds them to what the runtime and the writer know: asking those here would import them for a help page.
POOLINGS = ("mean", "cls", "last", "max")
FORMATS = ("json", "npy", "tsv")
_EXAMPLES = """
edgelm embed minilm "The cat sits outside." "A man plays the guitar."
edgelm embed minilm -f sentences.txt --format npy -o vectors.npy
edgelm embed minilm -f words.txt --format tsv -o projector
"""


@click.command(cls=PagedCommand, epilog=examples(_EXAMPLES))
@click.argument("model")
@click.argument("texts", nargs=-1, metavar="[TEXT]...")
@file_option("texts", each_line=True)
@click.option("--format", "form", type=click.Choice(FORMATS), help="What to write.  [json]")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="File to write; with tsv, a folder.")
@click.option("--pooling", type=click.Choice(POOLINGS), help="How tokens become one vector; default: the model's own.")
@click.option("--normalize/--no-normalize", default=None, help="To unit length or not; default: as the model says.")
@click.option("--prefix", default="", help="Put this before each text, such as 'query: '.")
@truncate_option
@machine_options
@json_option
def command(
    model: str,
    texts: tuple[str, ...],
    file: str | None,
    form: str | None,
    output: Path | None,
    pooling: str | None,
    normalize: bool | None,
    prefix: str,
    truncate: bool,
    machine: MachineOptions,
    as_json: bool,
) -> None:
    """Turn texts into vectors.

    The texts are arguments, or the lines of a file or of standard input; an empty line has its vector, too. json is an
    object a line; npy a NumPy array; tsv the two files that the Embedding Projector (projector.tensorflow.org) loads.
    """
    from edgelm.cli.vectors import check_output, write_vectors

    if as_json and form not in (None, "json"):
        raise click.UsageError(f"give either --json or --format {form}")
    form = form or "json"
    check_output(form, output)
    given = read_texts(texts, file)
    folder = ensure_installed(model, offline=machine.offline, max_memory=machine.max_memory)
    with prompt_exit(), places_as_given(texts), load_encoder_folder(folder, machine) as encoder:
        vectors = encoder.embed(given, pooling=pooling, normalize=normalize, prompt=prefix, truncation=truncate)
    write_vectors(given, vectors, form, output)
