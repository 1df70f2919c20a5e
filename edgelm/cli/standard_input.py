"""What is on standard input: whether a shell has put something there, and how much waits, without taking it away."""

from __future__ import annotations

import os
import stat
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from edgelm.cli import console

# Longer than programs take to begin to write; a pipe that nobody writes into shall not look like a hang.
_PATIENCE_SECONDS = 3.0


def is_piped() -> bool:
    """Whether it is a pipe or a file, as ``|`` and ``<`` of a shell make it.

    Terminals, ``/dev/null`` and sockets are none: the last come from programs that start this one, often without ever
    closing them.
    """
    if sys.stdin is None or sys.stdin.closed:
        return False
    try:
        mode = os.fstat(sys.stdin.fileno()).st_mode
    except (OSError, ValueError):  # no file of the system: put there by the program that this is part of
        return not sys.stdin.isatty()
    return stat.S_ISFIFO(mode) or stat.S_ISREG(mode)


def read_piped(limit: int, hint: str) -> bytes:
    """All of it, up to ``limit`` bytes and one more; says the ``hint`` on stderr when it has to wait for long."""
    with _after(_PATIENCE_SECONDS, hint):
        return sys.stdin.buffer.read(limit + 1)


def has_unread() -> bool:
    """Whether there is something to read right now; where that cannot be told, no."""
    if sys.stdin is None or sys.stdin.closed:
        return False
    try:
        number = sys.stdin.fileno()
        mode = os.fstat(number).st_mode
        if stat.S_ISREG(mode):
            return os.fstat(number).st_size > os.lseek(number, 0, os.SEEK_CUR)
        return (stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)) and _waiting_bytes(number) > 0
    except (OSError, ValueError):
        return False


def _waiting_bytes(number: int) -> int:
    try:
        import fcntl
        import termios
    except ImportError:  # Windows
        return 0
    count = fcntl.ioctl(number, termios.FIONREAD, bytes(4))
    return int.from_bytes(count, sys.byteorder)


@contextmanager
def _after(seconds: float, hint: str) -> Iterator[None]:
    timer = threading.Timer(seconds, console.say, (hint,))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
