"""``edgelm rm``: models out of the store, with what was kept for them elsewhere."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path

import click

from edgelm.bundle.bundle import open_bundle
from edgelm.bundle.files import tree_size
from edgelm.bundle.home import stamps_folder
from edgelm.bundle.publish import discard
from edgelm.bundle.store import Store
from edgelm.cli import console
from edgelm.cli.help_page import PagedCommand, examples
from edgelm.cli.units import size_text
from edgelm.errors import EdgeLMError, ModelError

_EXAMPLES = """
edgelm rm smollm2
edgelm rm --yes smollm2 smollm2-int4
"""


@click.command(cls=PagedCommand, epilog=examples(_EXAMPLES))
@click.argument("models", nargs=-1, required=True, metavar="MODEL...")
@click.option("-y", "--yes", is_flag=True, help="Do not ask. Nor is asked where nobody could answer.")
def command(models: tuple[str, ...], yes: bool) -> None:
    """Delete installed models.

    What was downloaded for them stays in the cache, so that they can be made again.
    """
    store = Store()
    ask = not yes and console.is_terminal(sys.stdin) and console.is_terminal(sys.stderr)
    failed: EdgeLMError | None = None
    for model in models:
        if ask and not click.confirm(f"delete {model}?", err=True):
            continue
        try:
            _remove(store, model)
        except EdgeLMError as error:  # the others shall go all the same
            if failed is not None:
                console.error(str(failed))
            failed = error
    if failed is not None:
        raise failed


def _remove(store: Store, model: str) -> None:
    copies = _prepacked_copies(store.path(model))
    freed = store.remove(model)
    for copy in copies:
        size = tree_size(copy)
        with contextlib.suppress(FileNotFoundError):
            discard(copy)
            freed += size
    console.say(f"deleted {model}, {size_text(freed)} freed")


def _prepacked_copies(folder: Path) -> list[Path]:
    """Folders with copies of its weights; a broken bundle does not say which they would be."""
    from edgelm.runtime.prepack import prepacked_path

    try:
        bundle = open_bundle(folder, stamps=stamps_folder())
        return [copy for role in bundle.graphs if (copy := prepacked_path(bundle, role).parent).is_dir()]
    except ModelError:
        return []
