"""Has a child process end when its parent dies, even by ``kill -9``: nobody waits for its work any more, and what it
writes may be cleaned away under its hands.

The child's standard input is a pipe into which nobody writes; the system closes it with the parent.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def lifeline() -> Iterator[int]:
    """The descriptor for a child's standard input; the child must have ended before the block does."""
    read, write = os.pipe()
    try:
        yield read
    finally:
        os.close(write)
        os.close(read)


def end_with_parent() -> None:
    """In the child: ends it as soon as its standard input ends."""
    threading.Thread(target=_await_end, name="edgelm-lifeline", daemon=True).start()


def _await_end() -> None:
    os.read(0, 1)
    os._exit(1)
