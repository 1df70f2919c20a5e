"""``edgelm translate``: a text in another language."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import click

from edgelm.bundle.catalog import CatalogEntry, load_catalog
from edgelm.cli import console
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
from edgelm.errors import ModelNotFoundError
from edgelm.runtime.memory import megabytes, peak_memory
from edgelm.text.language_codes import base_language

if TYPE_CHECKING:
    from edgelm.tasks.translation import Translation

_TEXT = "Text"
_EXAMPLES = """
edgelm translate --to pt "The children were playing in the garden."
edgelm translate --to en -f carta.txt > letter.txt
edgelm translate -m hf:facebook/nllb-200-distilled-600M --from en --to sw "Good morning."
git log -1 --format=%B | edgelm translate --to pt --json -
"""
# Fewer sentences are done before a bar is seen.
_WORTH_A_BAR = 2000


@click.command(cls=PagedCommand, epilog=examples(_EXAMPLES))
@click.argument("text", required=False)
@click.option("--to", "target", cls=SectionOption, section=_TEXT, metavar="CODE", help="Language of the translation.")
@click.option("--from", "source", cls=SectionOption, section=_TEXT, metavar="CODE", help="Language of the text.")
@click.option("-m", "--model", help="The model; default: the catalog's for these languages.")
@file_option("text", section=_TEXT)
@generation_options
@machine_options
@json_option
@verbose_option
def command(
    text: str | None,
    target: str | None,
    source: str | None,
    model: str | None,
    file: str | None,
    generation: dict[str, Any],
    machine: MachineOptions,
    as_json: bool,
    verbose: bool,
) -> None:
    """Translate a text of any length.

    TEXT may also come from a file, or on standard input (-, or no text and a pipe). It is translated sentence by
    sentence; spaces, line breaks and empty lines stay. CODE is a language's, such as pt or pt-BR, its English
    name, or the model's own for it (por_Latn).
    """
    refuse_unseen_logprobs(generation, "edgelm run --json")
    given = read_prompt(text, None, file, what="text", keep_end=True)
    end = "\r\n" if given.endswith("\r\n") else "\n"
    given = given.removesuffix(end)
    chosen = model if model is not None else translator(source, target).name
    folder = ensure_installed(chosen, offline=machine.offline, max_memory=machine.max_memory)
    with prompt_exit(), load_folder(folder, machine) as lm, shown_progress() as progress:
        from edgelm.tasks.translation import Translator

        shown = progress if len(given) >= _WORTH_A_BAR else None
        began = time.perf_counter()
        made = Translator(lm, source=source, target=target, progress=shown, **generation).translate(given)
        if as_json:
            fields = {"model": lm.bundle.manifest.name, **made.as_dict()}
            console.answer_json(fields)
        else:
            console.answer(made.text + end)
        if made.incomplete:
            console.warning(
                f"{made.incomplete} of {made.sentences} sentences ended at the limit of tokens; raise it with -n"
            )
        if verbose:
            console.say(_cost_line(made, time.perf_counter() - began))


def _cost_line(made: Translation, seconds: float) -> str:
    speed = f"{made.completion_tokens / seconds:.1f} tokens/s"
    return (
        f"{made.sentences} sentences, source {made.prompt_tokens} tokens, translation {made.completion_tokens} tokens "
        f"at {speed}, {seconds:.3f} s, peak memory {megabytes(peak_memory())}"
    )


def translator(source: str | None, target: str | None) -> CatalogEntry:
    """The catalog's model for a pair of languages; without a source, the first one that translates to the target.

    Raises:
        click.UsageError: no target is named either.
        ModelNotFoundError: there is none; names the pairs that there are.
    """
    if target is None:
        raise click.UsageError("name the language to translate to (--to), or a model (-m)")
    catalog = load_catalog()
    found = catalog.translators(base_language(source), base_language(target) or target)
    if found:
        return found[0]
    pairs = ", ".join(" to ".join(entry.languages) for entry in catalog.entries.values() if entry.languages)
    asked = f"{f'from {source} ' if source else ''}to {target}"
    raise ModelNotFoundError(f"the catalog has no model that translates {asked}, only {pairs}; name one with --model")
