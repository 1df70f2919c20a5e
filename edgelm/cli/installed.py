"""Finds the bundle of the MODEL of a command line; a model that is not there yet is pulled first."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from multiprocessing.process import BaseProcess
from pathlib import Path

import click

from edgelm.bundle.catalog import load_catalog
from edgelm.bundle.manifest import MANIFEST_NAME
from edgelm.bundle.store import Store
from edgelm.cli.pulling import REMOTE, exists, find_origin
from edgelm.errors import ModelError, ModelNotFoundError

_CHECKPOINT_FILES = ("config.json", "*.safetensors", "*.gguf")
# Together below a second: time for an interrupted child to clean up by itself, and once it was told to.
_GRACE_SECONDS = 0.4


def ensure_installed(model: str, *, offline: bool) -> Path:
    """The folder of a model's bundle; what is not there yet is fetched and converted first.

    Raises:
        ModelNotFoundError: there is no such model, or it would have to be fetched while offline.
        ModelError: it is a checkpoint, not a bundle; says how to convert it.
        click.exceptions.Exit: pulling it failed, and has said why.
    """
    try:
        return _refuse_checkpoint(Store().resolve(model))
    except ModelNotFoundError:
        if not _is_pullable(model):
            if exists(Path(model)):
                raise _needs_export(Path(model)) from None
            raise
    folder = Store().path(find_origin(model).name)
    if folder.is_dir():  # a package source: its name in the store is not what was typed
        return folder
    if offline:
        raise ModelNotFoundError(f"{model!r} is not installed, and nothing is fetched with --offline")
    _pull(model)
    return folder


def _pull(model: str) -> None:
    """Pulls in a process of its own: converting takes far more memory than running, and must not count as that."""
    child = multiprocessing.get_context("spawn").Process(target=_run_pull, args=(model,), name="edgelm-pull")
    child.start()
    try:
        child.join()
    except KeyboardInterrupt:
        _end(child)
        raise
    if child.exitcode:
        raise click.exceptions.Exit(child.exitcode if child.exitcode > 0 else 1)


def _run_pull(model: str) -> None:
    from edgelm.cli.app import app

    app.main(["pull", "--", model])


def _end(child: BaseProcess) -> None:
    """Ends a child that a terminal has interrupted as well, or that nobody has told yet."""
    child.join(_GRACE_SECONDS)
    if child.is_alive() and child.pid is not None and sys.platform != "win32":
        os.kill(child.pid, signal.SIGINT)
        child.join(_GRACE_SECONDS)
    if child.is_alive():
        child.terminate()


def _is_pullable(model: str) -> bool:
    return model.startswith(REMOTE) or load_catalog().get(model) is not None


def _refuse_checkpoint(folder: Path) -> Path:
    """The folder, unless it is a checkpoint; any other folder without a manifest is for ``open_bundle`` to refuse."""
    if not (folder / MANIFEST_NAME).exists() and any(any(folder.glob(pattern)) for pattern in _CHECKPOINT_FILES):
        raise _needs_export(folder)
    return folder


def _needs_export(path: Path) -> ModelError:
    return ModelError(f"{path} is no bundle; if it is a checkpoint, convert it first: edgelm export {str(path)!r}")
