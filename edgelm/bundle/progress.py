"""How a long transfer tells what it does. It knows nothing about terminals: the command line draws it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

_POLL_SECONDS = 0.2


class Progress(Protocol):
    """Told about one transfer after another: ``start``, any number of ``advance``, ``finish``.

    ``advance`` may come from another thread than the others, but never at the same time as they.
    """

    def start(self, label: str, total_bytes: int | None) -> None:
        """A transfer begins; ``total_bytes`` is None when nobody said how much it will be."""
        ...

    def advance(self, n: int) -> None:
        """``n`` more bytes have arrived."""
        ...

    def finish(self) -> None:
        """The transfer has ended, well or not."""
        ...


class NoProgress:
    """A Progress that shows nothing."""

    def start(self, label: str, total_bytes: int | None) -> None:
        """Shows nothing."""

    def advance(self, n: int) -> None:
        """Shows nothing."""

    def finish(self) -> None:
        """Shows nothing."""


@contextmanager
def transfer(progress: Progress, label: str, total_bytes: int | None) -> Iterator[None]:
    """Brackets a transfer with ``start`` and ``finish``."""
    progress.start(label, total_bytes)
    try:
        yield
    finally:
        progress.finish()


@contextmanager
def watching(measure: Callable[[], int], progress: Progress) -> Iterator[None]:
    """Advances ``progress`` while another program or library writes; ``measure`` tells the bytes there are by now."""
    done = threading.Event()
    before = measure()

    def poll() -> None:
        seen = before
        while True:
            ended = done.wait(_POLL_SECONDS)
            # A file that is renamed while it is measured may be missed once, so the size can dip: never step back.
            size = measure()
            if size > seen:
                progress.advance(size - seen)
                seen = size
            if ended:
                return

    watcher = threading.Thread(target=poll, name="edgelm-download-size", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        done.set()
        watcher.join()
