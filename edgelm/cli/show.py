"""``edgelm show``: what a model is, where it comes from, how good it is and what it needs."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from edgelm.bundle.bundle import manifest_of
from edgelm.bundle.catalog import NAME, CatalogEntry, load_catalog
from edgelm.bundle.manifest import Manifest
from edgelm.bundle.store import Store
from edgelm.cli import console
from edgelm.cli.help_page import PagedCommand, examples
from edgelm.cli.installed import needs_export
from edgelm.cli.options import json_option
from edgelm.cli.origin import exists
from edgelm.cli.summary import catalog_rows, catalog_values, manifest_rows, quality_rows
from edgelm.cli.units import size_text, table
from edgelm.config import ENCODER_BATCH_TOKENS, RuntimeConfig
from edgelm.errors import ModelNotFoundError
from edgelm.runtime.memory import Budget, budget, encoder_budget

_EXAMPLES = """
edgelm show smollm2
edgelm show smollm2 --memory
edgelm show ./my-bundle --json
"""
_CONTEXTS = (512, 2048, 8192, 32768, 131072)
_TEXT_LENGTHS = (128, *_CONTEXTS)


@click.command(cls=PagedCommand, epilog=examples(_EXAMPLES))
@click.argument("model")
@click.option("--memory", is_flag=True, help="What it needs in memory, by part, at several lengths of the context.")
@json_option
def command(model: str, memory: bool, as_json: bool) -> None:
    """Show what a model is and what it needs."""
    try:
        folder = Store().resolve(model)
    except ModelNotFoundError:
        entry = load_catalog().get(model) if NAME.fullmatch(model) else None
        if entry is None and exists(Path(model)):
            raise needs_export(Path(model)) from None
        if entry is None or memory:  # what it needs is in its bundle alone
            raise
        _print_available(entry, as_json)
        return
    manifest = manifest_of(folder)
    budgets = _budgets(manifest) if memory else {}
    if as_json:
        _print_json(folder, manifest, budgets)
    else:
        _print_text(folder, manifest, budgets)


def _print_available(entry: CatalogEntry, as_json: bool) -> None:
    if as_json:
        _print_fields(catalog_values(entry))
    else:
        console.answer(_columns(catalog_rows(entry)) + "\n")
    console.say(f"{entry.name} is not installed; get it with: edgelm pull {entry.name}")


def _budgets(manifest: Manifest) -> dict[int, Budget]:
    """By tokens of prompt and answer; of an encoder's texts, in usual batches; of a source and of its answer."""
    encodes = manifest.family == "encoder"
    most = manifest.context_length
    lengths = [*(tokens for tokens in (_TEXT_LENGTHS if encodes else _CONTEXTS) if tokens < most), most]
    if encodes:
        return {
            tokens: encoder_budget(manifest, batch_tokens=ENCODER_BATCH_TOKENS, longest=tokens) for tokens in lengths
        }
    chunk = RuntimeConfig().prefill_chunk
    return {tokens: budget(manifest, tokens=tokens, prefill_chunk=chunk) for tokens in lengths}


def _print_json(folder: Path, manifest: Manifest, budgets: dict[int, Budget]) -> None:
    values: dict[str, Any] = {"path": str(folder), **dataclasses.asdict(manifest)}
    if budgets:
        values["memory"] = [
            {"tokens": tokens, **dataclasses.asdict(need), "total": need.total} for tokens, need in budgets.items()
        ]
    _print_fields(values)


def _print_text(folder: Path, manifest: Manifest, budgets: dict[int, Budget]) -> None:
    sections = [_columns([*manifest_rows(manifest), ("folder", str(folder))])]
    if manifest.quality:
        sections.append("Quality\n" + _columns(quality_rows(manifest)))
    if budgets:
        header = ("  TOKENS", *(field.name.replace("_", " ").upper() for field in dataclasses.fields(Budget)), "TOTAL")
        rows = [
            (f"  {tokens}", *(size_text(part) for part in (*dataclasses.astuple(need), need.total)))
            for tokens, need in budgets.items()
        ]
        sections.append("Memory\n" + table(header, rows))
    files = [(name, size_text(file.size)) for name, file in manifest.files.items()]
    sections.append("Files\n" + _columns(files))
    console.answer("\n\n".join(sections) + "\n")


def _columns(rows: Sequence[tuple[str, ...]]) -> str:
    indented = [(f"  {row[0]}", *row[1:]) for row in rows]
    return table(indented[0], indented[1:])


def _print_fields(values: dict[str, Any]) -> None:
    console.answer(json.dumps(values, indent=2, ensure_ascii=False) + "\n")
