"""``edgelm doctor``: what this machine has for running models, which fit, and what stands in the way."""

from __future__ import annotations

import json
import sys

import click

from edgelm.cli import console
from edgelm.cli.diagnosis import Diagnosis, ModelHere, diagnose, warnings_of
from edgelm.cli.help_page import PagedCommand, examples
from edgelm.cli.progress_bar import shown_progress
from edgelm.cli.units import size_text, table
from edgelm.runtime.fitting import USUAL_TOKENS

_EXAMPLES = """
edgelm doctor
edgelm doctor --json
"""
_MEASURED_SECONDS = 1.0


@click.command(cls=PagedCommand, epilog=examples(_EXAMPLES))
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text.")
@click.pass_context
def command(context: click.Context, as_json: bool) -> None:
    """Show what this machine has, and which models fit.

    It takes about two seconds, one of which reads memory with all cores. The exit code is 0 if a model can be run here,
    3 if none fits into memory, 4 if none is installed and the disk has no room for one. Speeds are estimates; edgelm
    bench measures.
    """
    with shown_progress() as progress:
        if console.is_terminal(sys.stderr):
            progress.start("Looking at this machine", None)
        found = diagnose(seconds=_MEASURED_SECONDS)
    if as_json:
        console.answer(json.dumps(found.as_dict(), indent=2, ensure_ascii=False) + "\n")
    else:
        console.answer(_text(found))
    for warning in () if as_json else warnings_of(found):
        console.warning(warning)
    context.exit(found.exit_code)


def _text(found: Diagnosis) -> str:
    sections = {"Processor": _processor_rows(found), "Memory": _memory_rows(found), "Software": _software_rows(found)}
    parts = [f"{title}\n{_indented(rows)}" for title, rows in sections.items()]
    header = ("  MODEL", "NEEDS", "TOKENS/S", "HERE")
    rows = [_model_row(model, found) for model in found.models]
    told = f"memory for {USUAL_TOKENS} tokens, or one text; tokens/s are estimated from the speed of memory"
    return "\n\n".join([*parts, f"Models ({told})\n{table(header, rows)}"]) + "\n"


def _processor_rows(found: Diagnosis) -> list[tuple[str, str]]:
    cores = found.processor
    counts = [f"{cores.usable_cores} usable"]
    counts += [] if cores.physical_cores is None else [f"{cores.physical_cores} physical"]
    counts += [] if cores.logical_cores is None else [f"{cores.logical_cores} logical"]
    counts += [] if cores.quota is None else [f"time of {cores.quota:g} by the control group"]
    return [
        ("name", f"{cores.name or 'unknown'} ({cores.architecture})"),
        ("cores", ", ".join(counts)),
        ("instructions", ", ".join(cores.instruction_sets) or "unknown"),
        ("", cores.consequence),
    ]


def _memory_rows(found: Diagnosis) -> list[tuple[str, str]]:
    rows = [("in all", "unknown" if found.memory is None else size_text(found.memory))]
    labels = ["usable", *([""] * len(found.bounds))]
    rows += [
        (label, f"{size_text(one.nbytes)} by {one.source}") for label, one in zip(labels, found.bounds, strict=False)
    ]
    disk = found.disk
    state = "can be written" if disk.writable else "cannot be written"
    return [
        *rows,
        ("speed", f"{size_text(found.bandwidth)}/s (read by {found.processor.threads} threads)"),
        ("disk", f"{size_text(disk.free)} free at {disk.path}, which {state}"),
    ]


def _software_rows(found: Diagnosis) -> list[tuple[str, str]]:
    versions = ", ".join(f"{name} {number}" for name, number in found.versions.items())
    extras = [f"{extra} {'yes' if not missing else 'no'}" for extra, missing in found.extras.items()]
    return [
        ("versions", versions),
        ("ONNX Runtime", found.runtime_build),
        ("providers", f"{', '.join(found.providers)} (EdgeLM uses the CPU's)"),
        ("telemetry", "on" if found.telemetry else "off"),
        ("extras", ", ".join(extras)),
    ]


def _model_row(model: ModelHere, found: Diagnosis) -> tuple[str, ...]:
    speed = "" if model.tokens_per_second is None else f"about {_rounded(model.tokens_per_second)}"
    if not model.fits:
        verdict = "does not fit"
    elif model.installed:
        verdict = "installed"
    elif not found.has_room(model):
        verdict = "fits, but not on the disk"
    else:
        verdict = "fits"
    if model.steps:
        verdict += f": {', '.join(model.steps)}"
    return f"  {model.name}", size_text(model.need), speed, verdict


def _rounded(speed: float) -> str:
    """Two digits: it is an estimate."""
    return f"{speed:.2g}" if speed < 100 else f"{round(speed, -1):.0f}"


def _indented(rows: list[tuple[str, str]]) -> str:
    shown = [(f"  {label}", text) for label, text in rows]
    return table(shown[0], shown[1:])
