"""Finds the bundle of the MODEL of a command line; a model that is not there yet is pulled first."""

from __future__ import annotations

from pathlib import Path

from edgelm.bundle.bundle import is_foreign
from edgelm.bundle.catalog import load_catalog
from edgelm.bundle.manifest import MANIFEST_NAME
from edgelm.bundle.store import Store
from edgelm.cli.origin import REMOTE, exists, find_origin
from edgelm.errors import ModelError, ModelNotFoundError

_CHECKPOINT_FILES = ("config.json", "*.safetensors", "*.gguf")


def ensure_installed(model: str, *, offline: bool, max_memory: int | None = None) -> Path:
    """The folder of a model's bundle; what is not there yet is fetched and converted first.

    Raises:
        MemoryLimitError: it is not there yet, and known not to run within ``max_memory`` bytes.
        ModelNotFoundError: there is no such model, or it would have to be fetched while offline.
        ModelError: it is a checkpoint, not a bundle; says how to convert it.
        click.exceptions.Exit: pulling it failed, and has said why.
    """
    try:
        return _refuse_checkpoint(Store().resolve(model))
    except ModelNotFoundError:
        if not _is_pullable(model):
            if exists(Path(model)):
                raise needs_export(Path(model)) from None
            raise
    folder = Store().root / find_origin(model).name
    if folder.is_dir():  # a package source: its name in the store is not what was typed
        return folder
    if offline:
        raise ModelNotFoundError(f"{model!r} is not installed, and nothing is fetched with --offline")
    # Not imported before it is needed: a start that finds its model does without processes.
    from edgelm.cli.expected import refuse_what_cannot_fit
    from edgelm.cli.pull_process import pull_in_child

    refuse_what_cannot_fit(model, max_memory)
    pull_in_child(model)
    return folder


def _is_pullable(model: str) -> bool:
    return model.startswith(REMOTE) or load_catalog().get(model) is not None


def _refuse_checkpoint(folder: Path) -> Path:
    """The folder, unless it is a checkpoint alone; any other that is no model's is for ``open_bundle`` to refuse."""
    if is_checkpoint(folder):
        raise needs_export(folder)
    return folder


def is_checkpoint(folder: Path) -> bool:
    """Whether a folder holds a checkpoint that is neither a bundle nor a folder of graphs by another tool."""
    if (folder / MANIFEST_NAME).exists() or not any(any(folder.glob(pattern)) for pattern in _CHECKPOINT_FILES):
        return False
    return not is_foreign(folder)


def needs_export(path: Path) -> ModelError:
    """The refusal of a file or folder that is no bundle."""
    return ModelError(f"{path} is no bundle; if it is a checkpoint, convert it first: edgelm export {str(path)!r}")
