"""``edgelm list``: the models that are here, and those that could be."""

from __future__ import annotations

import json

import click

from edgelm.bundle.catalog import CatalogEntry, load_catalog
from edgelm.bundle.store import Store, StoreEntry
from edgelm.cli import console
from edgelm.cli.help_page import PagedCommand, examples
from edgelm.cli.options import json_option
from edgelm.cli.summary import catalog_values, scheme_text, store_values
from edgelm.cli.units import age_text, size_text, table

_EXAMPLES = """
edgelm list
edgelm list --all
edgelm list --json | jq -r '.[].name'
"""


@click.command(cls=PagedCommand, epilog=examples(_EXAMPLES))
@click.option("--all", "--available", "everything", is_flag=True, help="Also those of the catalog that can be pulled.")
@json_option
def command(everything: bool, as_json: bool) -> None:
    """List the models that are installed (alias: ls)."""
    installed = Store().installed()
    names = {entry.name for entry in installed}
    available = [entry for entry in load_catalog().entries.values() if entry.name not in names] if everything else []
    if as_json:
        values = [store_values(entry) for entry in installed] + [catalog_values(entry) for entry in available]
        console.answer(json.dumps(values, indent=2, ensure_ascii=False) + "\n")
        return
    if installed:
        console.answer(_installed_table(installed) + "\n")
        for entry in installed:
            if entry.error is not None:
                console.warning(f"{entry.name} is broken: {entry.error}; make it anew, or: edgelm rm {entry.name}")
    elif not everything:
        console.say("no model is installed; edgelm list --all shows what can be pulled")
    if available:
        console.answer(("\n" if installed else "") + _available_table(available) + "\n")


def _installed_table(entries: list[StoreEntry]) -> str:
    rows = [(entry.name, size_text(entry.size), *_kind(entry), age_text(entry.modified)) for entry in entries]
    return table(("NAME", "SIZE", "SCHEME", "ARCHITECTURE", "MODIFIED"), rows)


def _kind(entry: StoreEntry) -> tuple[str, str]:
    manifest = entry.manifest
    return ("broken", "-") if manifest is None else (scheme_text(manifest), manifest.architecture)


def _available_table(entries: list[CatalogEntry]) -> str:
    rows = [
        (
            entry.name,
            "-" if entry.download_size is None else size_text(entry.download_size),
            entry.license + (" (to accept)" if entry.gated else ""),
            entry.description,
        )
        for entry in entries
    ]
    return table(("TO PULL", "DOWNLOAD", "LICENCE", "DESCRIPTION"), rows)
