"""``edgelm replay``: a recorded answer, made again."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgelm.bundle.store import Store
from edgelm.cli import console
from edgelm.cli.help_page import PagedCommand, examples
from edgelm.cli.installed import ensure_installed
from edgelm.cli.interrupt import prompt_exit
from edgelm.cli.loading import load_settings
from edgelm.cli.options import MachineOptions, json_option, machine_options
from edgelm.cli.progress_bar import shown_progress
from edgelm.errors import ModelNotFoundError

if TYPE_CHECKING:
    from edgelm.replay.file import Replay
    from edgelm.replay.rerun import Comparison, Parting

EXIT_PARTED = 1
_EXAMPLES = """
edgelm run smollm2 --temperature 0.8 --record story.json "Tell me a story."
edgelm replay story.json
edgelm replay story.json --model smollm2-int4
"""


@click.command(cls=PagedCommand, epilog=examples(_EXAMPLES))
@click.argument("file", type=click.Path(path_type=Path))
@click.option("-m", "--model", help="Another model than the recorded one.")
@machine_options
@json_option
@click.pass_context
def command(context: click.Context, file: Path, model: str | None, machine: MachineOptions, as_json: bool) -> None:
    """Run a recorded answer again, and compare.

    FILE is what edgelm run --record wrote. Says whether all tokens are the same (exit code 0), or which is the first
    that is not (exit code 1), and on stderr what differs from the machine of then.
    """
    from edgelm.replay.file import Replay

    replay = Replay.load(file)
    folder = _recorded_model(replay) if model is None else ensure_installed(model, offline=machine.offline)
    with prompt_exit():
        import edgelm
        from edgelm.replay.rerun import rerun

        chunk = replay.runtime["prefill_chunk"]
        settings = load_settings(folder, machine if model is not None else _as_recorded(machine, replay))
        with edgelm.load(folder, **settings, prefill_chunk=chunk) as lm, shown_progress() as progress:
            progress.start(f"replaying {len(replay.output_ids)} tokens with {lm.name}", len(replay.text))
            comparison = rerun(lm, replay, on_text=lambda text: progress.advance(len(text)))
            progress.finish()
    if as_json:
        console.answer_json({"model": lm.name, **comparison.as_dict()})
    else:
        for name, (then, now) in comparison.differences.items():
            console.say(f"{name}: {then} then, {now} now")
        console.answer(f"{_verdict(comparison)}\n")
    if not comparison.identical:
        context.exit(EXIT_PARTED)


def _recorded_model(replay: Replay) -> Path:
    """The folder of the installed model that was recorded; the one of the same name is looked at first.

    Raises:
        ModelNotFoundError: it is not installed; says whether another one of that name is.
    """
    named = False
    for entry in sorted(Store().installed(), key=lambda entry: entry.name != replay.model):
        if entry.manifest is None:
            continue
        if hashlib.sha256(entry.manifest.to_json()).hexdigest() == replay.manifest_sha256:
            return entry.path
        named = named or entry.name == replay.model
    found = f"{replay.model} is installed, but is not the model that" if named else f"{replay.model}, which"
    missing = "" if named else ", is not installed"
    raise ModelNotFoundError(
        f"{found} was recorded{missing} (manifest {replay.manifest_sha256[:12]}…); --model MODEL runs another"
    )


def _as_recorded(machine: MachineOptions, replay: Replay) -> MachineOptions:
    """The options, with what was recorded where nothing else is given: it changes how numbers are rounded."""
    return replace(
        machine,
        threads=machine.threads or replay.runtime["threads"],
        context_length=machine.context_length or replay.runtime["context_length"],
        kv_cache=machine.kv_cache or replay.kv_cache,
    )


def _verdict(comparison: Comparison) -> str:
    if comparison.parting is None:
        return f"identical: {comparison.tokens} tokens"
    return f"parted at token {comparison.parting.at + 1} of {comparison.tokens}: {_parting_text(comparison.parting)}"


def _parting_text(parting: Parting) -> str:
    gap = "" if parting.gap is None else f" (the two likeliest are {parting.gap:g} apart)"
    return f"{_token_text(parting.expected)} then, {_token_text(parting.got)} now{gap}"


def _token_text(token: tuple[int, str] | None) -> str:
    return "the end" if token is None else f"{token[1]!r} ({token[0]})"
