"""Runs commands of ``edgelm`` in forks of one process that has imported everything: within a fraction of a second, so
that many can be killed, or run short of something.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from support.command_line import ROOT

_PATIENCE_SECONDS = 120

# Reads requests, one JSON object a line; writes the number of the process that carries it out, and then its exit code.
_SERVER = """
import json, os, resource, signal, sys
import edgelm.cli.export, edgelm.cli.pull, edgelm.cli.quantize, edgelm.cli.run, edgelm.language_model
import edgelm.runtime.prepack, edgelm.text.tokenizer, edgelm_tools.export
from edgelm.cli.app import app

print(0, flush=True)
for line in sys.stdin:
    request = json.loads(line)
    child = os.fork()
    if child == 0:
        os.setsid()
        for name, mode, number in ((os.devnull, os.O_RDONLY, 0), (request["out"], os.O_WRONLY, 1),
                                   (request["err"], os.O_WRONLY, 2)):
            os.dup2(os.open(name, mode), number)
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        for name, most in request["limits"].items():
            number = getattr(resource, name)
            resource.setrlimit(number, (most, resource.getrlimit(number)[1]))
        os.environ.update(request["environment"])
        app.main(request["arguments"])
    print(child, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


@dataclass(frozen=True)
class Ended:
    """How a command ended: its exit code, negative for a signal, and what it wrote."""

    code: int
    out: str
    err: str


class CommandForks:
    """The process that forks; a context manager. One command runs at a time.

    Args:
        folder: for what the commands write to their streams.
    """

    def __init__(self, folder: Path) -> None:
        self._streams = {"out": folder / "stdout", "err": folder / "stderr"}
        self._server = subprocess.Popen(
            [sys.executable, "-c", _SERVER], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self._child = self._answer()
        self._runs = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if self._runs:
            self.signal(signal.SIGKILL)
        assert self._server.stdin is not None
        self._server.stdin.close()
        self._server.wait(30)
        assert self._server.stdout is not None
        self._server.stdout.close()

    def start(self, *arguments: str, limits: dict[str, int] | None = None, **environment: str) -> None:
        """Starts a command in a session of its own; ``limits``: names of ``resource`` → the soft limit."""
        if self._runs:  # a test that failed has left it
            self.signal(signal.SIGKILL)
            self.wait()
        request: dict[str, Any] = {"arguments": arguments, "environment": environment, "limits": limits or {}}
        for name, path in self._streams.items():
            path.write_bytes(b"")
            request[name] = str(path)
        assert self._server.stdin is not None
        self._server.stdin.write(json.dumps(request) + "\n")
        self._server.stdin.flush()
        self._child = self._answer()
        self._runs = True

    def signal(self, number: signal.Signals) -> None:
        """Sends a signal to the command, but to none of its children; it may have ended already."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._child, number)

    def wait(self) -> Ended:
        """Waits for the end, which is a kill where the command takes far too long."""
        timer = threading.Timer(_PATIENCE_SECONDS, self.signal, (signal.SIGKILL,))
        timer.start()
        code = self._answer()
        timer.cancel()
        self._runs = False
        return Ended(code, *(path.read_text(encoding="utf-8") for path in self._streams.values()))

    def run(self, *arguments: str, limits: dict[str, int] | None = None, **environment: str) -> Ended:
        """Starts a command and waits for its end."""
        self.start(*arguments, limits=limits, **environment)
        return self.wait()

    def _answer(self) -> int:
        assert self._server.stdout is not None
        return int(self._server.stdout.readline())
