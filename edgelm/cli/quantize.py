"""``edgelm quantize``: the same checkpoint in another scheme, compared with the bundle that is there."""

from __future__ import annotations

from pathlib import Path

import click

from edgelm.bundle.bundle import read_manifest
from edgelm.bundle.catalog import load_catalog
from edgelm.bundle.manifest import Manifest
from edgelm.bundle.store import Store
from edgelm.cli import console
from edgelm.cli.help_page import PagedCommand, examples
from edgelm.cli.options import max_memory_option, scheme_option
from edgelm.cli.origin import Origin, destination, find_origin, origin_of_installed
from edgelm.cli.progress_bar import shown_progress
from edgelm.cli.pulling import convert
from edgelm.cli.summary import installed_line, quality_rows, scheme_text
from edgelm.cli.units import size_text, table
from edgelm.errors import ModelError

_EXAMPLES = """
edgelm quantize smollm2 --scheme int4
edgelm quantize ./checkpoint --scheme dynamic-int8 -o ./my-bundle
"""


@click.command(cls=PagedCommand, epilog=examples(_EXAMPLES))
@click.argument("model")
@scheme_option(help="The quantization to make.", required=True)
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Folder of the bundle; default: in the store.")
@click.option("--name", help="Name in the store; default: MODEL-SCHEME.")
@click.option("--force", is_flag=True, help="Replace what is there.")
@max_memory_option("Convert within so much memory, such as 800MB; leaves out what does not fit, and says so.")
@click.option("--offline", is_flag=True, help="Use only what was downloaded before.")
def command(
    model: str,
    scheme: str,
    output: Path | None,
    name: str | None,
    force: bool,
    max_memory: int | None,
    offline: bool,
) -> None:
    """Make another quantization of a model.

    It is made of the model's checkpoint, never of a bundle, which has lost precision already. MODEL is a name, a
    folder, a GGUF file, or hf:ORG/NAME.
    """
    present = _present(model)
    origin = _origin(model, present)
    present = present or _present(origin.name)
    stored, target = destination(output, name, f"{origin.name}-{scheme}")
    with shown_progress() as progress:
        made = convert(
            origin,
            target,
            name=stored,
            scheme=scheme,
            force=force,
            offline=offline,
            progress=progress,
            max_memory=max_memory,
        )
    console.say(installed_line(made))
    console.answer(_comparison(*([] if present is None else [present]), made) + "\n")


def _present(model: str) -> Manifest | None:
    """The manifest of the bundle that MODEL names, if there is a sound one."""
    try:
        return read_manifest(Store().resolve(model))
    except ModelError:
        return None


def _origin(model: str, present: Manifest | None) -> Origin:
    if present is None or load_catalog().get(model) is not None:
        return find_origin(model)
    return origin_of_installed(present)


def _comparison(*manifests: Manifest) -> str:
    sizes = tuple(size_text(sum(file.size for file in manifest.files.values())) for manifest in manifests)
    schemes = tuple(scheme_text(manifest) for manifest in manifests)
    rows = [("scheme", *schemes), ("size", *sizes), *quality_rows(*manifests)]
    return table(("", *(manifest.name for manifest in manifests)), rows)
