"""Runs the command line as users do: in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
COMMAND = (sys.executable, "-m", "edgelm")


def edgelm(*arguments: str, **settings: Any) -> subprocess.CompletedProcess[bytes]:
    """Runs ``edgelm`` to its end; ``settings`` are those of ``subprocess.run``, with nothing on stdin by default."""
    settings = {"input": b"", "timeout": 60} | settings
    return subprocess.run([*COMMAND, *arguments], cwd=ROOT, capture_output=True, check=False, **settings)


def started(*arguments: str, **settings: Any) -> subprocess.Popen[bytes]:
    """Starts ``edgelm`` with its output in pipes."""
    streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen([*COMMAND, *arguments], cwd=ROOT, **(streams | settings))


def environment(**changes: str) -> dict[str, str]:
    """This process's environment with changes."""
    return {**os.environ, **changes}
