"""Draws the progress of transfers and conversions: a bar on a terminal, else one plain line a stage. On stderr."""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from edgelm.bundle.progress import Progress
from edgelm.cli import console
from edgelm.cli.units import size_text

_BAR_WIDTH = 24
_REDRAW_SECONDS = 0.1
# Stages count bytes or tokens and do not say which: below this it is not worth telling as a size.
_LEAST_BYTES = 1_000_000


@contextmanager
def shown_progress() -> Iterator[Progress]:
    """A Progress for stderr as it is; an open bar is ended with the block, so that no message hangs on to it."""
    if console.is_terminal(sys.stderr) and os.environ.get("TERM") != "dumb":
        bar = ProgressBar()
        try:
            yield bar
        finally:
            bar.abandon()
    else:
        yield PlainProgress()


class PlainProgress:
    """One line a stage."""

    def start(self, label: str, total_bytes: int | None) -> None:
        """Says what begins."""
        console.say(f"{label}{_size(total_bytes)}")

    def advance(self, n: int) -> None:
        """Shows nothing."""

    def finish(self) -> None:
        """Shows nothing."""


class ProgressBar:
    """One line that is drawn again and again, and stays when its stage has ended."""

    def __init__(self) -> None:
        self._label: str | None = None
        self._total: int | None = None
        self._done = 0
        self._started = self._drawn = 0.0

    def start(self, label: str, total_bytes: int | None) -> None:
        """Draws the empty bar."""
        self.abandon()
        self._label, self._total, self._done = label, total_bytes, 0
        self._started = time.monotonic()
        self._draw(self._state())

    def advance(self, n: int) -> None:
        """Draws the bar, if the last time is long enough ago."""
        self._done += n
        if time.monotonic() - self._drawn >= _REDRAW_SECONDS:
            self._draw(self._state())

    def finish(self) -> None:
        """Puts the time that it took in the bar's place."""
        seconds = time.monotonic() - self._started
        self._draw(f"{_size(self._done)} in {seconds:.1f} s")
        self.abandon()

    def abandon(self) -> None:
        """Leaves the line as it is and begins the next one."""
        if self._label is not None:
            self._label = None
            console.draw("\n")

    def _state(self) -> str:
        if not self._total:
            return f" …{_size(self._done)}"
        share = min(self._done / self._total, 1.0)
        filled = round(share * _BAR_WIDTH)
        bar = "█" * filled + "░" * (_BAR_WIDTH - filled)
        return f" {bar} {share:4.0%}{_size(self._total)}{self._rate()}"

    def _rate(self) -> str:
        seconds = time.monotonic() - self._started
        return f" {size_text(self._done / seconds)}/s" if self._done >= _LEAST_BYTES and seconds > 1 else ""

    def _draw(self, state: str) -> None:
        self._drawn = time.monotonic()
        width = shutil.get_terminal_size().columns - 1
        label = str(self._label)[: max(0, width - len(state))]
        console.draw(f"\r{label}{state}\x1b[K"[: width + 4])


def _size(count: int | None) -> str:
    return f" ({size_text(count)})" if count is not None and count >= _LEAST_BYTES else ""
