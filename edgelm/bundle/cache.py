"""What is kept beside the models only to save time: downloads, prepacked weights, records of checked hashes."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from edgelm.bundle.files import remove_tree, storage_error, tree_size
from edgelm.bundle.home import downloads_folder, models_folder, prepacked_folder, stamps_folder
from edgelm.bundle.publish import discard, heal, interrupted_targets
from edgelm.errors import LockedError


def clear_cache() -> tuple[int, list[Path]]:
    """Deletes all of it, and what broken-off downloads and conversions left; models stay.

    Returns:
        The bytes that were freed, and what another process is writing right now and so is still there.

    Raises:
        StorageError: a folder cannot be read or changed.
    """
    before = _size()
    busy = [path for folder in (downloads_folder(), prepacked_folder()) for path in _emptied(folder)]
    remove_tree(stamps_folder())
    for target in _interrupted(models_folder()):
        heal(target)
    return max(0, before - _size()), busy


def _size() -> int:
    """Bytes of all of it, and of the models, beside which unfinished ones lie."""
    return sum(
        tree_size(folder) for folder in (downloads_folder(), prepacked_folder(), stamps_folder(), models_folder())
    )


def _emptied(folder: Path) -> list[Path]:
    """Deletes what is in a folder; returns what another process is writing."""
    targets = {*_interrupted(folder), *(path for path in _entries(folder) if not path.name.startswith("."))}
    busy = []
    for target in sorted(targets):
        try:
            with contextlib.suppress(FileNotFoundError):  # unfinished only, and healed away
                discard(target)
        except LockedError:
            busy.append(target)
    return busy


def _interrupted(folder: Path) -> list[Path]:
    return interrupted_targets(folder) if folder.is_dir() else []


def _entries(folder: Path) -> list[Path]:
    try:
        return [Path(entry.path) for entry in os.scandir(folder)] if folder.is_dir() else []
    except OSError as error:
        raise storage_error(error, folder) from error
