"""``edgelm bench``: how fast a model is on this machine, and what memory it takes."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING

import click
from click.core import ParameterSource

from edgelm.bundle.strict_json import load_json
from edgelm.cli import console
from edgelm.cli.help_page import PagedCommand, SectionOption, examples
from edgelm.cli.installed import ensure_installed
from edgelm.cli.interrupt import prompt_exit
from edgelm.cli.loading import load_settings
from edgelm.cli.options import MachineOptions, json_option, machine_options
from edgelm.cli.units import table
from edgelm.errors import PromptError

if TYPE_CHECKING:
    from edgelm.benchmark import Benchmark

_EXAMPLES = """
edgelm bench smollm2
edgelm bench smollm2 -t 2 --prompt-tokens 1000 -n 100
edgelm bench smollm2 --prompt-ids ids.json --json
"""
_WORK = "Work"
_MAX_IDS_BYTES = 16 << 20


@click.command(cls=PagedCommand, epilog=examples(_EXAMPLES))
@click.argument("model")
@click.option("--prompt-ids", type=Path, cls=SectionOption, section=_WORK, help="A JSON list of token ids to prefill.")
@click.option(
    "--prompt-tokens",
    metavar="N",
    type=click.IntRange(min=1),
    default=255,
    show_default=True,
    cls=SectionOption,
    section=_WORK,
    help="Tokens to prefill where no ids are given.",
)
@click.option(
    "-n",
    "--max-new-tokens",
    "new_tokens",
    metavar="N",
    type=click.IntRange(min=1),
    default=128,
    show_default=True,
    cls=SectionOption,
    section=_WORK,
    help="Tokens to decode; the end of the answer is no reason to stop.",
)
@machine_options
@json_option
@click.pass_context
def command(
    context: click.Context,
    model: str,
    prompt_ids: Path | None,
    prompt_tokens: int,
    new_tokens: int,
    machine: MachineOptions,
    as_json: bool,
) -> None:
    """Measure a model's speed and memory.

    Greedy decoding after a short warm-up. Times are of this process alone: let nothing else run beside it.
    """
    if prompt_ids is not None and context.get_parameter_source("prompt_tokens") is not ParameterSource.DEFAULT:
        raise click.UsageError("give either --prompt-ids or --prompt-tokens")
    ids = None if prompt_ids is None else _read_ids(prompt_ids)
    folder = ensure_installed(model, offline=machine.offline, max_memory=machine.max_memory)
    from edgelm.benchmark import benchmark

    with prompt_exit():
        measured = benchmark(
            folder,
            prompt=prompt_tokens if ids is None else ids,
            new_tokens=new_tokens,
            **load_settings(folder, machine),
        )
    if as_json:
        console.answer(json.dumps(dataclasses.asdict(measured)) + "\n")
    else:
        console.answer(_summary(measured) + "\n")


def _read_ids(file: Path) -> list[int]:
    try:
        with file.open("rb") as stream:
            data = stream.read(_MAX_IDS_BYTES + 1)
    except OSError as error:
        raise PromptError(f"{file}: {error.strerror or error}") from error
    ids = load_json(data, what=str(file), limit=_MAX_IDS_BYTES)
    if not isinstance(ids, list) or not ids:
        raise PromptError(f"{file}: must be a JSON list of token ids that is not empty")
    for index, token in enumerate(ids):
        if isinstance(token, bool) or not isinstance(token, int):
            raise PromptError(f"{file}: [{index}] must be a token id, a whole number, not {token!r:.80}")
    return ids


def _summary(measured: Benchmark) -> str:
    rows = [
        ("prefill", f"{measured.prefill_tps:.1f} tokens/s ({measured.prompt_tokens} tokens)"),
        (
            "decode",
            "-"
            if measured.decode_tps is None
            else f"{measured.decode_tps:.1f} tokens/s ({measured.new_tokens} tokens)",
        ),
        ("first token", f"{measured.ttft_s:.3f} s"),
        ("load", f"{measured.load_s:.3f} s"),
        ("peak memory", f"{measured.peak_rss_mb:.0f} MB"),
    ]
    cache = "" if measured.kv_cache == "f32" else f", KV cache {measured.kv_cache}"
    title = (f"{measured.model}", f"{measured.scheme}, {measured.threads} threads{cache}")
    return table(title, rows)
