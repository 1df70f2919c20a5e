"""Gives back memory of code that has run: libraries are read in large part only to be loaded and set up.

The pages are those of files, unchanged, so that the system has them again at once where they are needed.
"""

from __future__ import annotations

import ctypes
import re
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

_MAPPINGS = Path("/proc/self/smaps")
_DONT_NEED = 4  # of Linux
# The first line of a mapping of a library's code, and the one that says how much of it is not as in the file.
_CODE = re.compile(r"^([0-9a-f]+)-([0-9a-f]+) r-xp \S+ \S+ \S+\s+/.*\.so(?:\.[\d.]+)?$", re.MULTILINE)
_CHANGED = re.compile(r"^Anonymous:\s+(\d+) kB$", re.MULTILINE)


def give_back_code() -> None:
    """Lets go of the code of all libraries; does nothing but on Linux."""
    give_back = _madvise()
    if give_back is None:
        return
    try:
        mappings = _MAPPINGS.read_text(errors="replace")
    except OSError:
        return
    for start, end in code_mappings(mappings):
        give_back(start, end - start, _DONT_NEED)


def code_mappings(smaps: str) -> Iterator[tuple[int, int]]:
    """Addresses, first and behind the last, of each unchanged mapping of a library's code in ``/proc/PID/smaps``."""
    for found in _CODE.finditer(smaps):
        changed = _CHANGED.search(smaps, found.end())
        if changed is not None and changed[1] == "0":
            yield int(found[1], 16), int(found[2], 16)


@cache
def _madvise() -> ctypes._NamedFuncPointer | None:
    if sys.platform != "linux":
        return None
    function = ctypes.CDLL(None).madvise
    function.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    return function
