"""``edgelm attention``: what a model's layers look at in a text."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgelm.cli import console
from edgelm.cli.generation_options import generation_options, refuse_unseen_logprobs
from edgelm.cli.help_page import PagedCommand, SectionOption, examples
from edgelm.cli.installed import ensure_installed
from edgelm.cli.interrupt import prompt_exit
from edgelm.cli.loading import load_for_labels
from edgelm.cli.options import MachineOptions, json_option, machine_options
from edgelm.cli.output_file import OUTPUT_FILE, PNG_FILE, write_output
from edgelm.cli.prompt_input import checked_text, read_prompt
from edgelm.cli.units import table
from edgelm.errors import ConfigError

if TYPE_CHECKING:
    from edgelm.encoder_model import EncoderModel
    from edgelm.inspection.maps import Attention
    from edgelm.language_model import LanguageModel

# Enough for a sentence's translation.
_SOURCE_ANSWER = 64
# Numbers that can be printed as text; a page holds fewer, a picture has its own limit.
_MOST_PRINTED = 1 << 23
_RANGE = re.compile(r"([0-9]{1,4})(?:-([0-9]{1,4}))?")
_MAPS = "Maps"
_EXAMPLES = """
edgelm attention smollm2 "The cat sat on the mat, because it was tired." --html cat.html
edgelm attention smollm2 "The capital of France is" -n 4 --layer 10-14 --png france.png
edgelm attention en-pt "The meeting was moved to Thursday." --html meeting.html
edgelm attention minilm "How old is it?" --pair "It was built in 1840." --json
"""


def _numbers(ctx: click.Context, parameter: click.Parameter, value: str | None) -> frozenset[int] | None:
    """``0,3-5`` as numbers."""
    if value is None:
        return None
    matches = [_RANGE.fullmatch(part.strip()) for part in value.split(",")]
    found = {n for m in matches if m is not None for n in range(int(m[1]), int(m[2] or m[1]) + 1)}
    if None in matches or not found:
        raise click.BadParameter(f"{value!r:.80} is no list of numbers such as 0,3-5")
    return frozenset(found)


@click.command(cls=PagedCommand, epilog=examples(_EXAMPLES))
@click.argument("model")
@click.argument("text", required=False)
@click.option("-f", "--file", help="Read the text from a file; - is stdin.")
@click.option("--pair", metavar="TEXT", help="The second text, for an encoder.")
@click.option("--chat", is_flag=True, help="Put the text into the model's chat template.")
@click.option(
    "--layer", metavar="N,N-M", callback=_numbers, cls=SectionOption, section=_MAPS, help="These layers only."
)
@click.option("--head", metavar="N,N-M", callback=_numbers, cls=SectionOption, section=_MAPS, help="These heads only.")
@click.option(
    "--html",
    type=OUTPUT_FILE,
    cls=SectionOption,
    section=_MAPS,
    help="Write a page to explore, which needs nothing else.",
)
@click.option(
    "--png",
    type=PNG_FILE,
    cls=SectionOption,
    section=_MAPS,
    help="Write a picture: layers down, heads to the right; of several attentions one each, NAME-encoder.png, …",
)
@generation_options
@machine_options
@json_option
def command(
    model: str,
    text: str | None,
    file: str | None,
    pair: str | None,
    chat: bool,
    layer: frozenset[int] | None,
    head: frozenset[int] | None,
    html: Path | None,
    png: Path | None,
    generation: dict[str, Any],
    machine: MachineOptions,
    as_json: bool,
) -> None:
    """Show what the layers of a model attend to.

    TEXT is an encoder's text, or a prompt or source; with -n N tokens are generated and looked at, too (an
    encoder-decoder: 64). Printed is how widely each head looks: the entropy of its weights in bits, 0 for one token
    alone. The weights themselves are in --json, --html and --png.
    """
    refuse_unseen_logprobs(generation, "edgelm run --json")
    given = read_prompt(text, None, file, what="text")
    if not given:
        raise click.UsageError("the text is empty; write one")
    folder = ensure_installed(model, offline=machine.offline, max_memory=machine.max_memory)
    with prompt_exit(), load_for_labels(folder, machine) as loaded:
        second = None if pair is None else checked_text(pair, "--pair")
        found = _looked_at(loaded, given, second, chat, {"layers": layer, "heads": head}, generation)
    _write(found, html, png)
    if as_json:
        _check_printable(found)
        console.answer_json(found.as_dict())
    else:
        console.answer(_entropies(found))


def _looked_at(
    model: EncoderModel | LanguageModel,
    text: str,
    second: str | None,
    chat: bool,
    chosen: dict[str, Any],
    generation: dict[str, Any],
) -> Attention:
    from edgelm.encoder_model import EncoderModel
    from edgelm.inspection.attention import attention_maps

    if isinstance(model, EncoderModel):
        if chat:
            raise click.UsageError(f"{model.name} is an encoder, which has no chat template")
        return attention_maps(model, text if second is None else (text, second), **chosen, **generation)
    if second is not None:
        raise click.UsageError(f"{model.bundle.manifest.name} is no encoder, which alone takes --pair")
    if model.bundle.manifest.family == "encoder-decoder":
        generation = {"max_new_tokens": _SOURCE_ANSWER, **generation}
    prompt = model.encode_chat([{"role": "user", "content": text}]) if chat else text
    return attention_maps(model, prompt, **chosen, **generation)


def _write(found: Attention, html: Path | None, png: Path | None) -> None:
    """The files that were asked for; all are made before the first is written."""
    files: list[tuple[Path, bytes]] = []
    if html is not None:
        from edgelm.inspection.attention_page import attention_page

        files.append((html, attention_page(found).encode()))
    if png is not None:
        from edgelm.inspection.attention_image import attention_png

        for one in found.maps:
            name = png if len(found.maps) == 1 else png.with_name(f"{png.stem}-{one.kind}{png.suffix}")
            files.append((name, attention_png(one)))
    for path, data in files:
        write_output(path, data)


def _check_printable(found: Attention) -> None:
    count = sum(one.weights.size for one in found.maps)
    if count > _MOST_PRINTED:
        raise ConfigError(f"--json prints at most {_MOST_PRINTED} weights, not {count}: choose with --layer and --head")


def _entropies(found: Attention) -> str:
    """A table for each attention: layers down, heads to the right."""
    parts = []
    for one in found.maps:
        rows = [
            (str(layer), *(f"{bits:.2f}" for bits in entropies))
            for layer, entropies in zip(one.layers, one.entropy, strict=True)
        ]
        title = f"{one.kind}: {len(one.queries)} x {len(one.keys)} tokens, entropy in bits"
        parts.append(f"{title}\n{table(('layer', *(f'head {head}' for head in one.heads)), rows)}\n")
    return "\n".join(parts)
