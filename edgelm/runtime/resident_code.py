"""Gives back memory of code that has run: libraries are read in large part only to be loaded and set up.

The pages are those of files, unchanged, so that the system has them again at once where they are needed.
"""

from __future__ import annotations

import ctypes
import re
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

_PROC = Path("/proc/self")
_DONT_NEED = 4  # of Linux
# The line of a mapping of a library's code, and the one behind it that says how much is not as in the file.
_CODE = re.compile(r"^([0-9a-f]+)-([0-9a-f]+) r-xp \S+ \S+ \S+\s+/.*\.so(?:\.[\d.]+)?$", re.MULTILINE)
_CHANGED = re.compile(r"^Anonymous:\s+(\d+) kB$", re.MULTILINE)


def give_back_code() -> None:
    """Lets go of the code of libraries; does nothing but on Linux."""
    give_back = _madvise()
    if give_back is None:
        return
    unchanged = _unchanged()
    try:
        mappings = (_PROC / "maps").read_text(errors="replace")
    except OSError:
        return
    for found in _CODE.finditer(mappings):
        if found[0] in unchanged:
            start, end = (int(address, 16) for address in found.groups())
            give_back(start, end - start, _DONT_NEED)


def unchanged_code(smaps: str) -> frozenset[str]:
    """Of ``/proc/PID/smaps`` the first line of each mapping of a library's code that is as in its file."""
    lines = []
    for found in _CODE.finditer(smaps):
        changed = _CHANGED.search(smaps, found.end())
        if changed is not None and changed[1] == "0":
            lines.append(found[0])
    return frozenset(lines)


@cache
def _unchanged() -> frozenset[str]:
    """Looked up once, before weights are mapped: the system counts the pages of everything to tell."""
    try:
        return unchanged_code((_PROC / "smaps").read_text(errors="replace"))
    except OSError:
        return frozenset()


@cache
def _madvise() -> Callable[[int, int, int], int] | None:
    if sys.platform != "linux":
        return None
    function = ctypes.CDLL(None).madvise
    function.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    advise: Callable[[int, int, int], int] = function
    return advise
