"""Measures EdgeLM beside other engines: each run is a process of its own, and the engines take turns.

    python -m edgelm_tools.benchmark smollm2 --compare 'other=python other.py model.gguf'

A command to compare with loads its model, prefills the prompt, decodes greedily, and prints one line of JSON with the
fields of ``Sample``. Whatever drifts on a machine then drifts for all: the ratios are what to trust.
"""

from __future__ import annotations

import json
import math
import os
import platform
import shlex
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from importlib.metadata import version
from pathlib import Path
from typing import Any

import click

from edgelm import __version__
from edgelm.errors import ConfigError, EdgeLMError
from edgelm.runtime.cores import available_cores

OURS = "EdgeLM"
_CPU_INFO = Path("/proc/cpuinfo")
# What has to be the same for all, where a command tells.
_WORK = ("prompt_tokens", "new_tokens")


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One run, or the medians of several: speeds in tokens/s, seconds to load, the process's peak memory in 10^6 B."""

    prefill_tps: float
    decode_tps: float
    load_s: float
    peak_rss_mb: float

    def gain_over(self, other: Sample) -> Sample:
        """How many times better this is: of speeds the quotient, of time and memory its inverse."""
        return Sample(
            prefill_tps=self.prefill_tps / other.prefill_tps,
            decode_tps=self.decode_tps / other.decode_tps,
            load_s=other.load_s / self.load_s,
            peak_rss_mb=other.peak_rss_mb / self.peak_rss_mb,
        )


METRICS = tuple(field.name for field in fields(Sample))
_HEADINGS = {
    "prefill_tps": ("prefill tokens/s", 0),
    "decode_tps": ("decode tokens/s", 0),
    "load_s": ("load s", 2),
    "peak_rss_mb": ("peak MB", 0),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """All samples, by engine, and what EdgeLM says about its own run (``model``, ``scheme``, …)."""

    samples: Mapping[str, Sequence[Sample]]
    about: Mapping[str, Any]

    def medians(self) -> dict[str, Sample]:
        """Engine → the median of each figure."""
        return {engine: median(samples) for engine, samples in self.samples.items()}


def median(samples: Sequence[Sample]) -> Sample:
    """The median of each figure by itself."""
    return Sample(**{name: statistics.median(getattr(sample, name) for sample in samples) for name in METRICS})


def compare(commands: Mapping[str, Sequence[str]], *, runs: int) -> Comparison:
    """Runs each command ``runs`` times, in turn.

    Args:
        commands: engine → command line; EdgeLM's own is the one called ``OURS``.
        runs: how often.

    Raises:
        ConfigError: an engine prefilled or decoded another number of tokens than EdgeLM.
        EdgeLMError: a command failed, or did not print what it should.
    """
    samples: dict[str, list[Sample]] = {engine: [] for engine in commands}
    about: dict[str, Any] = {}
    for run in range(1, runs + 1):
        for engine, command in commands.items():
            print(f"run {run} of {runs}: {engine}", file=sys.stderr, flush=True)
            printed = _run(engine, command)
            if engine == OURS:
                about = printed
            samples[engine].append(_sample(engine, printed))
            _check_work(engine, printed, about)
    return Comparison(samples=samples, about=about)


def edgelm_command(
    model: str, *, prompt_tokens: int, new_tokens: int, threads: int, prompt_ids: Path | None = None
) -> list[str]:
    """The command line that measures EdgeLM, in this interpreter."""
    prompt = ["--prompt-tokens", str(prompt_tokens)] if prompt_ids is None else ["--prompt-ids", str(prompt_ids)]
    work = [*prompt, "-n", str(new_tokens), "--threads", str(threads), "--json"]
    return [sys.executable, "-m", "edgelm", "bench", model, *work]


def parse_engines(texts: Sequence[str]) -> dict[str, list[str]]:
    """Texts of the form ``NAME=COMMAND`` → name to command line.

    Raises:
        ConfigError: one is written otherwise, or a name is taken.
    """
    engines: dict[str, list[str]] = {}
    for text in texts:
        name, _, command = (part.strip() for part in text.partition("="))
        try:
            words = shlex.split(command)
        except ValueError as error:
            raise ConfigError(f"{text!r:.200}: the command cannot be split into words: {error}") from error
        if not name or not words:
            raise ConfigError(f"{text!r:.200} is not of the form NAME=COMMAND")
        if name == OURS or name in engines:
            raise ConfigError(f"{text!r:.200}: the name is taken already")
        engines[name] = words
    return engines


def machine() -> dict[str, str]:
    """What the figures depend on: processor, cores, memory, system and versions."""
    libraries = ", ".join(f"{name} {version(name)}" for name in ("onnxruntime", "numpy"))
    return {
        "processor": _processor(),
        "cores": str(available_cores()),
        "memory": _memory(),
        "system": f"{platform.system()} {platform.machine()}",
        "versions": f"EdgeLM {__version__}, {libraries}, Python {platform.python_version()}",
    }


def markdown_table(medians: Mapping[str, Sample]) -> str:
    """One row an engine; in brackets how many times better EdgeLM is."""
    ours = medians[OURS]
    lines = [
        "| engine | " + " | ".join(heading for heading, _ in _HEADINGS.values()) + " |",
        "|---" * (1 + len(METRICS)) + "|",
    ]
    for engine, sample in medians.items():
        gain = None if engine == OURS else ours.gain_over(sample)
        cells = [_cell(name, sample, gain) for name in METRICS]
        lines.append(f"| {engine} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("model")
@click.option("--runs", type=click.IntRange(min=1), default=5, show_default=True, help="Runs of each engine.")
@click.option("-n", "--max-new-tokens", "new_tokens", type=click.IntRange(min=2), default=128, show_default=True)
@click.option("--prompt-tokens", type=click.IntRange(min=1), default=255, show_default=True)
@click.option("--prompt-ids", type=click.Path(path_type=Path, exists=True), help="A JSON list of token ids instead.")
@click.option("-t", "--threads", type=click.IntRange(min=1), help="Threads of EdgeLM; default: one a core.")
@click.option("--compare", "others", multiple=True, metavar="NAME=COMMAND", help="Another engine; may be repeated.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, with every single run.")
def main(
    model: str,
    runs: int,
    new_tokens: int,
    prompt_tokens: int,
    prompt_ids: Path | None,
    threads: int | None,
    others: tuple[str, ...],
    as_json: bool,
) -> None:
    """Measure MODEL, in processes of its own, in turn with other engines' commands.

    Each command prints one line of JSON with prefill_tps, decode_tps, load_s and peak_rss_mb, and may tell
    prompt_tokens and new_tokens, which then must be EdgeLM's.
    """
    ours = edgelm_command(
        model,
        prompt_tokens=prompt_tokens,
        new_tokens=new_tokens,
        threads=threads or available_cores(),
        prompt_ids=prompt_ids,
    )
    try:
        comparison = compare({OURS: ours, **parse_engines(others)}, runs=runs)
    except EdgeLMError as error:
        raise click.ClickException(str(error)) from error
    click.echo(_as_json(comparison) if as_json else _report(comparison, runs))


def _run(engine: str, command: Sequence[str]) -> dict[str, Any]:
    """What a command printed: the last line that is a JSON object."""
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    except OSError as error:
        raise EdgeLMError(f"{engine}: {command[0]}: {error.strerror or error}") from error
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise EdgeLMError(f"{engine} ended with exit code {done.returncode}: {last:.300}")
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    try:
        printed = json.loads(lines[-1]) if lines else None
    except ValueError as error:
        raise EdgeLMError(f"{engine} printed no JSON: {error}") from error
    if not isinstance(printed, dict):
        raise EdgeLMError(f"{engine} printed no line of JSON")
    return printed


def _sample(engine: str, printed: Mapping[str, Any]) -> Sample:
    values = {}
    for name in METRICS:
        value = printed.get(name)
        if isinstance(value, bool) or not isinstance(value, int | float) or not (0 < value < math.inf):
            raise EdgeLMError(f"{engine}: {name} must be a number above zero, not {value!r:.80}")
        values[name] = float(value)
    return Sample(**values)


def _check_work(engine: str, printed: Mapping[str, Any], about: Mapping[str, Any]) -> None:
    for name in _WORK:
        if name in printed and printed[name] != about.get(name):
            raise ConfigError(f"{engine}: {name} is {printed[name]!r:.80}, but {OURS} took {about.get(name)!r:.80}")


def _cell(name: str, sample: Sample, gain: Sample | None) -> str:
    text = f"{getattr(sample, name):,.{_HEADINGS[name][1]}f}"
    return text if gain is None else f"{text} (×{getattr(gain, name):.2f})"


def _report(comparison: Comparison, runs: int) -> str:
    about = comparison.about
    work = (
        f"{about.get('model')} ({about.get('scheme')}), {about.get('prompt_tokens')} tokens of prompt, "
        f"{about.get('new_tokens')} of answer, {about.get('threads')} threads; medians of {runs}"
    )
    facts = machine()
    hardware = f"{facts['processor']}, {facts['cores']} cores, {facts['memory']}, {facts['system']}"
    table = markdown_table(comparison.medians())
    legend = "\n\nIn brackets: how many times better EdgeLM is." if len(comparison.samples) > 1 else ""
    return f"{work}\n{hardware}\n{facts['versions']}\n\n{table}{legend}"


def _as_json(comparison: Comparison) -> str:
    engines = {
        engine: {"median": asdict(median(samples)), "runs": [asdict(sample) for sample in samples]}
        for engine, samples in comparison.samples.items()
    }
    about = {name: value for name, value in comparison.about.items() if name not in (*METRICS, "tokens")}
    return json.dumps({"machine": machine(), "work": about, "engines": engines})


def _processor() -> str:
    try:
        lines = _CPU_INFO.read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _memory() -> str:
    if not hasattr(os, "sysconf"):
        return "memory unknown"
    return f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 1e9:.0f} GB"


if __name__ == "__main__":
    main()
