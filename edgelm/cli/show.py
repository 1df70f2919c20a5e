"""``edgelm show``: what a model is, where it comes from, how good it is and what it needs."""

from __future__ import annotations

import dataclasses
import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from edgelm.bundle.bundle import manifest_of
from edgelm.bundle.catalog import CatalogEntry, load_catalog
from edgelm.bundle.integrity import check_sizes
from edgelm.bundle.manifest import NATIVE_LAYOUT, Manifest
from edgelm.bundle.names import MODEL_NAME
from edgelm.bundle.store import Store
from edgelm.cli import console
from edgelm.cli.expected import expected_of_checkpoint, expected_of_entry
from edgelm.cli.help_page import PagedCommand, examples
from edgelm.cli.installed import is_checkpoint, needs_export
from edgelm.cli.memory_report import Need, kv_types_of, memory_text, most_tokens, needs_of
from edgelm.cli.options import json_option, max_memory_option, scheme_option
from edgelm.cli.origin import DEFAULT_SCHEME, exists
from edgelm.cli.summary import catalog_rows, catalog_values, expected_rows, manifest_rows, quality_rows
from edgelm.cli.units import size_text, table
from edgelm.config import RuntimeConfig
from edgelm.errors import ConfigError, ModelError, ModelNotFoundError
from edgelm.runtime.fitting import LEAST_TOKENS, Limit, fit, least_need
from edgelm.runtime.memory import Budget, megabytes
from edgelm.runtime.usable_memory import MemoryBound, usable_memory

_EXAMPLES = """
edgelm show smollm2
edgelm show smollm2 --memory
edgelm show qwen2.5-0.5b --memory --max-memory 1GB
edgelm show ./checkpoint --memory --scheme int4
edgelm show ./my-bundle --json
"""


@click.command(cls=PagedCommand, epilog=examples(_EXAMPLES))
@click.argument("model")
@click.option("--memory", is_flag=True, help="What it needs in memory, by part, at several lengths of the context.")
@click.option("-c", "--ctx-size", "tokens", type=click.IntRange(min=1), metavar="N", help="With --memory: up to there.")
@max_memory_option("With --memory: the longest context within this limit.  [what the machine leaves]")
@scheme_option(help="With --memory, of what is not converted yet: by this quantization.")
@json_option
def command(
    model: str, memory: bool, tokens: int | None, max_memory: int | None, scheme: str | None, as_json: bool
) -> None:
    """Show what a model is and what it needs.

    MODEL may also be one that can be pulled, and with --memory a checkpoint that can be exported.
    """
    for flag, given in (("--ctx-size", tokens), ("--max-memory", max_memory), ("--scheme", scheme)):
        if given is not None and not memory:
            raise click.UsageError(f"{flag} goes with --memory")
    limit = usable_memory() if max_memory is None else MemoryBound("--max-memory", max_memory)
    report = _Report(tokens, limit, as_json) if memory else None
    try:
        folder = Store().resolve(model)
    except ModelNotFoundError:
        _show_absent(model, report, scheme, as_json)
        return
    if report is not None and is_checkpoint(folder):
        _show_checkpoint(folder, report, scheme)
        return
    if scheme is not None:
        raise click.UsageError("--scheme is for what is not converted yet; see: edgelm quantize")
    manifest = manifest_of(folder)
    if as_json:
        fields = {} if report is None else report.fields(manifest)
        _print_fields({"path": str(folder), **dataclasses.asdict(manifest), **fields})
    else:
        _print_text(folder, manifest, report)
    _warn_of_damage(folder, manifest)


@dataclasses.dataclass(frozen=True, slots=True)
class _Report:
    """What ``--memory`` adds."""

    tokens: int | None
    limit: MemoryBound | None
    as_json: bool

    def needs(self, manifest: Manifest) -> list[Need]:
        if self.tokens is not None and self.tokens > manifest.context_length:
            raise ConfigError(f"--ctx-size is at most {manifest.context_length} for {manifest.name}, not {self.tokens}")
        return needs_of(manifest, kv_types_of(manifest), self.tokens)

    def fields(self, manifest: Manifest) -> dict[str, Any]:
        """For ``--json``."""
        fields: dict[str, Any] = {"memory": [need.as_dict() for need in self.needs(manifest)]}
        if self.limit is not None:
            fields["memory_limit"] = {"bytes": self.limit.nbytes, "source": self.limit.source}
            fields["tokens_within_limit"] = self._within(manifest, self.limit)
        fields["least_bytes"] = _least(manifest).total
        return fields

    def text(self, manifest: Manifest) -> str:
        """The tables, and how long a context may be here."""
        width, colour = shutil.get_terminal_size().columns, console.has_colour(sys.stdout)
        text = memory_text(self.needs(manifest), width=width, colour=colour)
        if self.limit is None:
            return text
        return f"{text}\n\n{self._verdict(manifest, self.limit)}"

    def _verdict(self, manifest: Manifest, limit: MemoryBound) -> str:
        """How long a context may be, and what of the tables' settings that changes."""
        within = self._within(manifest, limit)
        told = f"the limit of {limit.source}, {size_text(limit.nbytes)}"
        if not any(within.values()):
            least = megabytes(_least(manifest).total, up=True)
            return f"It does not fit into {told}: {_least_tokens(manifest)} tokens take {least} at least"
        found = [f"{count} tokens" + ("" if kind == "any" else f" ({kind} cache)") for kind, count in within.items()]
        steps = fit(manifest, RuntimeConfig(), max(within.values()), limit=Limit(limit.nbytes)).steps
        chunks = [f", with {step}" for step in steps if step.setting == "prefill_chunk"]
        batches = ", one text at a time; the table has batches" if manifest.family == "encoder" else ""
        return f"Within {told}: {', '.join(found)}{''.join(chunks)}{batches}"

    @staticmethod
    def _within(manifest: Manifest, limit: MemoryBound) -> dict[str, int]:
        if manifest.kv is None:
            return {"any": most_tokens(manifest, limit.nbytes)}
        return {kind: most_tokens(manifest, limit.nbytes, kind) for kind in kv_types_of(manifest)}


def _show_absent(model: str, report: _Report | None, scheme: str | None, as_json: bool) -> None:
    """What is known of a model that could be pulled.

    Raises:
        ModelError: it is a file or folder that is to be exported.
        ModelNotFoundError: there is no such model.
    """
    entry = load_catalog().get(model) if MODEL_NAME.fullmatch(model) else None
    if entry is None:
        path = Path(model)
        if not exists(path):
            Store().resolve(model)  # raises with near names
        if report is None:
            raise needs_export(path)
        _show_checkpoint(path, report, scheme)
        return
    expected = None if report is None else expected_of_entry(entry, scheme)
    fields = {} if report is None or expected is None else report.fields(expected)
    if as_json:
        _print_fields({**catalog_values(entry), **fields})
    else:
        needed = "" if report is None or expected is None else f"\n{report.text(expected)}\n"
        console.answer(_columns(catalog_rows(entry)) + "\n")
        console.answer_drawn(needed)
    _say_how_to_get(entry, lacks_memory=report is not None and expected is None)


def _say_how_to_get(entry: CatalogEntry, *, lacks_memory: bool) -> None:
    if lacks_memory:
        console.say(f"the catalog has no shape for {entry.name}: what it needs is known once it is here")
    console.say(f"{entry.name} is not installed; get it with: edgelm pull {entry.name}")


def _show_checkpoint(path: Path, report: _Report, scheme: str | None) -> None:
    expected = expected_of_checkpoint(path, scheme or DEFAULT_SCHEME)
    if report.as_json:
        _print_fields({"path": str(path), **dataclasses.asdict(expected), **report.fields(expected)})
    else:
        needed = report.text(expected)
        console.answer(f"{_columns(expected_rows(expected))}\n\n")
        console.answer_drawn(f"{needed}\n")
    console.say(f"{path} is a checkpoint; convert it with: edgelm export {str(path)!r}")


def _print_text(folder: Path, manifest: Manifest, report: _Report | None) -> None:
    sections = [_columns([*manifest_rows(manifest), ("folder", str(folder))])]
    if manifest.quality:
        sections.append("Quality\n" + _columns(quality_rows(manifest)))
    needed = "" if report is None else f"{report.text(manifest)}\n\n"
    console.answer("\n\n".join([*sections, ""]))
    console.answer_drawn(needed)  # this alone sets colours: all else is cleared of control characters
    files = [(name, size_text(file.size)) for name, file in manifest.files.items()]
    console.answer("Files\n" + _columns(files) + "\n")


def _least_tokens(manifest: Manifest) -> int:
    return min(LEAST_TOKENS, manifest.context_length)


def _least(manifest: Manifest) -> Budget:
    """The smallest limit that the model is loaded within."""
    return least_need(manifest, RuntimeConfig(), _least_tokens(manifest))


def _warn_of_damage(folder: Path, manifest: Manifest) -> None:
    """Files that are missing or cut are seen at once; what is in them is looked at when the model is opened."""
    if manifest.layout == NATIVE_LAYOUT:
        try:
            check_sizes(folder, manifest)
        except ModelError as error:
            console.warning(str(error))


def _columns(rows: Sequence[tuple[str, ...]]) -> str:
    indented = [(f"  {row[0]}", *row[1:]) for row in rows]
    return table(indented[0], indented[1:])


def _print_fields(values: dict[str, Any]) -> None:
    console.answer(json.dumps(values, indent=2, ensure_ascii=False) + "\n")
