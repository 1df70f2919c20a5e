"""``edgelm rm``: models out of the store, with what was kept for them elsewhere; or all that was kept beside them."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path

import click

from edgelm.bundle.bundle import open_bundle
from edgelm.bundle.cache import clear_cache
from edgelm.bundle.files import tree_size
from edgelm.bundle.home import stamps_folder
from edgelm.bundle.publish import discard
from edgelm.bundle.store import Store
from edgelm.cli import console
from edgelm.cli.help_page import PagedCommand, examples
from edgelm.cli.units import size_text
from edgelm.errors import EdgeLMError, LockedError, ModelError

_EXAMPLES = """
edgelm rm smollm2
edgelm rm --yes smollm2 smollm2-int4
edgelm rm --cache
"""


@click.command(cls=PagedCommand, epilog=examples(_EXAMPLES))
@click.argument("models", nargs=-1, metavar="[MODEL]...")
@click.option("--cache", is_flag=True, help="Delete downloads, prepacked weights and unfinished files; no model.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask. Nor is asked where nobody could answer.")
def command(models: tuple[str, ...], cache: bool, yes: bool) -> None:
    """Delete installed models.

    A model goes with its weights in this processor's layout. What was downloaded for it stays in the cache, so that it
    can be made again, until --cache.
    """
    if not models and not cache:
        raise click.UsageError("name the models to delete, or give --cache")
    ask = not yes and console.is_terminal(sys.stdin) and console.is_terminal(sys.stderr)
    failed: EdgeLMError | None = None
    store = Store()
    for model in models:
        if ask and not click.confirm(f"delete {model}?", err=True):
            continue
        try:
            _remove(store, model)
        except EdgeLMError as error:  # the others shall go all the same
            if failed is not None:
                console.error(str(failed))
            failed = error
    if cache and (not ask or click.confirm("delete the cache?", err=True)):
        _clear_cache()
    if failed is not None:
        raise failed


def _remove(store: Store, model: str) -> None:
    copies = _prepacked_copies(store, model)
    freed = store.remove(model)
    copied = 0
    for copy in copies:
        size = tree_size(copy)
        # Being made anew by another process, which has the bundle open: left to it.
        with contextlib.suppress(FileNotFoundError, LockedError):
            discard(copy)
            copied += size
    beside = f", of which {size_text(copied)} in its prepacked copy" if copied else ""
    console.say(f"deleted {model}, {size_text(freed + copied)} freed{beside}")


def _prepacked_copies(store: Store, model: str) -> list[Path]:
    """Folders with copies of its weights; a broken bundle does not say which they would be."""
    from edgelm.runtime.prepack import prepacked_path

    try:
        bundle = open_bundle(store.installed_path(model), stamps=stamps_folder())
        return [copy for role in bundle.graphs if (copy := prepacked_path(bundle, role).parent).is_dir()]
    except ModelError:
        return []


def _clear_cache() -> None:
    freed, busy = clear_cache()
    console.say(f"cleared the cache, {size_text(freed)} freed")
    for path in busy:
        console.warning(f"{path.name} is being written by another process, and stays")
