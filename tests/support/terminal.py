"""Runs the command line on a terminal of its own, and types into it."""

from __future__ import annotations

import os
import select
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from support.command_line import COMMAND, ROOT

INTERRUPT, END = "\x03", "\x04"


class Terminal:
    """A started ``edgelm`` whose three streams are one terminal; ``shown`` is all that it wrote."""

    def __init__(self, *arguments: str, columns: int = 100) -> None:
        import fcntl
        import pty
        import struct
        import termios

        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 30, columns, 0, 0))
        self.process = subprocess.Popen(
            [*COMMAND, *arguments],
            cwd=ROOT,
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env={**os.environ, "TERM": "xterm"},
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )
        os.close(slave)
        self.shown = ""
        self._seen = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self._master)

    def wait_for(self, text: str, seconds: float = 20) -> str:
        """Reads until ``text`` is shown after what was waited for before; returns what came until then."""
        deadline = time.monotonic() + seconds
        while (place := self.shown.find(text, self._seen)) < 0:
            if time.monotonic() > deadline or not self._read(0.1):
                raise AssertionError(f"{text!r} is not shown in: {self.shown[self._seen :]!r}")
        since, self._seen = self._seen, place + len(text)
        return self.shown[since : self._seen]

    def type(self, text: str) -> None:
        """Types."""
        os.write(self._master, text.encode())

    def until_it_reads(self, seconds: float = 20) -> None:
        """Waits until the program sleeps for its next key.

        Python's readline loses a signal that arrives between the display of its prompt and its wait for a key
        (it is handled at the next key), so an interrupt is typed only after this.
        """
        stat = Path(f"/proc/{self.process.pid}/stat")
        deadline = time.monotonic() + seconds
        while stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "S":
            assert time.monotonic() < deadline, "the program still works"
            time.sleep(0.005)

    def end(self, seconds: float = 10) -> int:
        """Reads to the end and returns the exit code."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and self._read(0.1):
            pass
        return self.process.wait(seconds)

    def _read(self, seconds: float) -> bool:
        """Whether the terminal is still open."""
        readable, _, _ = select.select([self._master], [], [], seconds)
        if not readable:
            return True
        try:
            data = os.read(self._master, 4096)
        except OSError:  # Linux: the other side is closed
            return False
        self.shown += data.decode(errors="replace")
        return bool(data)
