"""Runs a function of EdgeLM's in a process of its own, whose end, whatever it is, is not this one's.

For work on which the process may die, or whose memory shall be given back. Nothing in the user's current folder is ever
imported there. What such a process may take is for itself to limit, by ``limit_own_memory``.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from edgelm.bundle.lifeline import lifeline
from edgelm.runtime.library_room import THREADS_OF_NUMPY
from edgelm.runtime.usable_memory import status_bytes, usable_memory

if TYPE_CHECKING:
    import subprocess

# What follows the function's own output when it has returned.
_RETURNED = "\nedgelm: returned\n"
# Run with -P, and edgelm's own place last on the path.
_CODE = (
    "import sys; sys.path.append(sys.argv.pop()); "
    "from edgelm.bundle.lifeline import end_with_parent; end_with_parent(); "
    "from {module} import {function}; {function}(*sys.argv[1:]); "
    "sys.stdout.write({returned!r}); sys.stdout.flush()"
)
_PACKAGES = Path(__file__).parents[2]
# On a slow machine, whatever the size of the weights.
_SECONDS = 120.0
# How slow a disk may be from which weights are read, and laid out anew.
_BYTES_PER_SECOND = 10_000_000
# There is no such program, or it may not be run; ENOTSUP: on this system none can be.
_NO_INTERPRETER = (errno.ENOENT, errno.ENOTDIR, errno.EACCES, errno.EPERM, errno.ENOEXEC, errno.ENOTSUP)
_STATUS = Path("/proc/self/status")
_FIRST_TO_GO = Path("/proc/self/oom_score_adj")


class ChildEnd(NamedTuple):
    """How such a process ended.

    Attributes:
        code: its exit code, 0 only if the function returned, negative for a signal's number; None: it took too long and
            was ended.
        output: what the function wrote to stdout.
        last_line: the last line that it wrote to stderr.
    """

    code: int | None
    output: str
    last_line: str

    def __str__(self) -> str:
        if self.code is None:
            return "took too long"
        if self.code < 0:
            return f"was ended by {_signal_name(-self.code)}"
        return f"ended with exit code {self.code if self.code < 1 << 31 else hex(self.code)}"  # hex: Windows' crashes


class NoChildError(Exception):
    """There is no interpreter to start one with, whatever else the system has left; the message says why."""


def run_child(module: str, function: str, *arguments: str, seconds: float | None = None) -> ChildEnd:
    """Calls ``module.function(*arguments)`` in a process of its own, and waits for its end.

    Args:
        module: one of EdgeLM's.
        function: in it.
        arguments: its arguments.
        seconds: after which it is ended; None: never.

    Raises:
        NoChildError: there can be no such process.
        OSError: there is none now: the system is short of memory, processes or open files.
    """
    import subprocess  # most starts need none

    if not sys.executable or getattr(sys, "frozen", False):  # a frozen application would start itself once more
        raise NoChildError("there is no Python interpreter to start it with")
    code = _CODE.format(module=module, function=function, returned=_RETURNED)
    command = [sys.executable, "-P", "-c", code, *arguments, str(_PACKAGES)]
    try:
        with lifeline() as stdin:
            process = subprocess.Popen(
                command,
                stdin=stdin,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                encoding="utf-8",
                errors="replace",
                env={THREADS_OF_NUMPY: "1", **os.environ},  # each takes memory, and none is of use there
                # A group of its own, so that what it starts can be ended with it.
                process_group=None if sys.platform == "win32" else 0,
            )
            return _ended(process, seconds)
    except ValueError as error:  # a NUL in a path
        raise NoChildError(str(error)) from error
    except OSError as error:
        if error.errno not in _NO_INTERPRETER:
            raise
        raise NoChildError(str(error)) from error


def seconds_for(weights: int) -> float:
    """How many seconds a process may take that loads ``weights`` bytes of weights and works with them once."""
    return _SECONDS + weights / _BYTES_PER_SECOND


def _ended(process: subprocess.Popen[str], seconds: float | None) -> ChildEnd:
    import subprocess

    try:
        output, errors = process.communicate(timeout=seconds)
        code: int | None = process.returncode
    except subprocess.TimeoutExpired:
        _end(process)
        output, errors = process.communicate()
        code = None
    except BaseException:  # Ctrl-C, which the group does not get
        _end(process)
        process.communicate()
        raise
    written, returned, behind = output.rpartition(_RETURNED)
    output = written if returned else behind
    if code == 0 and not returned:  # an application that ignores SIGCHLD is told nothing else
        code = 1
    lines = errors.strip().splitlines()
    return ChildEnd(code, output, lines[-1] if lines else "")


def limit_own_memory(most: int | None = None, *, mapped: int = 0) -> None:
    """In a child: bounds what it may allocate from now on, by ``most`` bytes and by what the machine has left.

    ``mapped``: bytes of files that it will map. ONNX Runtime maps weights so that they could be written to, and what
    can be written counts, whether it is or not.

    Where the system runs out of memory all the same, it ends this process before others; none leaves a core behind.
    Systems that have no such limits are left as they are.
    """
    if sys.platform == "win32":
        return
    import resource

    with contextlib.suppress(OSError):
        _FIRST_TO_GO.write_text("1000")
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    usable = usable_memory()
    bounds = [bound for bound in (most, None if usable is None else usable.nbytes) if bound is not None]
    try:
        used = status_bytes(_STATUS.read_text(), "VmData")
    except OSError:
        return
    if bounds and used is not None:
        _, hard = resource.getrlimit(resource.RLIMIT_DATA)
        limit = used + min(bounds) + mapped
        if hard == resource.RLIM_INFINITY or limit < hard:
            with contextlib.suppress(OSError, ValueError):
                resource.setrlimit(resource.RLIMIT_DATA, (limit, hard))


def _end(process: subprocess.Popen[str]) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        if sys.platform == "win32":
            process.kill()
        else:
            os.killpg(process.pid, signal.SIGKILL)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
