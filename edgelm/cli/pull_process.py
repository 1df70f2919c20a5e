"""Pulls a model in a child process: converting takes far more memory than running, and must not count as that."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from multiprocessing.process import BaseProcess

import click

# Together below a second: time for an interrupted child to clean up by itself, and once it was told to.
_GRACE_SECONDS = 0.4


def pull_in_child(model: str) -> None:
    """Fetches and converts a model in a process of its own.

    Raises:
        click.exceptions.Exit: that failed, and has said why.
    """
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

    threading.Thread(target=_end_with_parent, daemon=True).start()
    app.main(["pull", "--", model])


def _end_with_parent() -> None:
    """Interrupts this process when its parent has died: nobody waits for the model any more."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        signal.raise_signal(signal.SIGINT)


def _end(child: BaseProcess) -> None:
    """Ends a child that a terminal has interrupted as well, or that nobody has told yet."""
    child.join(_GRACE_SECONDS)
    if child.is_alive() and child.pid is not None and sys.platform != "win32":
        os.kill(child.pid, signal.SIGINT)
        child.join(_GRACE_SECONDS)
    if child.is_alive():
        child.terminate()
