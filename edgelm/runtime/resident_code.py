"""Gives back memory of code that has run: libraries are read in large part only to be loaded and set up.

The pages are those of files, unchanged, so that the system has them again at once where they are needed. A library with
a page that is not as in its file is left alone: who changed it, such as a debugger or a tracer, relies on it. What may
be unmapped meanwhile must not be given back so: something else may lie there by then.
"""

from __future__ import annotations

import ctypes
import mmap
import re
import sys
from functools import cache
from pathlib import Path

import numpy as np

_PROC = Path("/proc/self")
_DONT_NEED = 4  # of Linux
# The line of a mapping of a library's code.
_CODE = re.compile(r"^([0-9a-f]+)-([0-9a-f]+) r-xp \S+ \S+ \S+\s+/.*\.so(?:\.[\d.]+)?$", re.MULTILINE)
# What the system tells of a page: 64 bits, of which these say that it is in memory, swapped out, and a file's.
_ENTRY_BYTES = 8
_PRESENT, _SWAPPED, _OF_FILE = (np.uint64(1 << bit) for bit in (63, 62, 61))


def give_back_code() -> None:
    """Lets go of the code of libraries; does nothing but on Linux."""
    if sys.platform != "linux":
        return
    library = _library()
    try:
        mappings = code_mappings((_PROC / "maps").read_text(errors="replace"))
        with (_PROC / "pagemap").open("rb", buffering=0) as file:
            for start, end in mappings:
                pages = ctypes.create_string_buffer(_ENTRY_BYTES * ((end - start) // mmap.PAGESIZE))
                offset = _ENTRY_BYTES * (start // mmap.PAGESIZE)
                if library.pread(file.fileno(), pages, len(pages), offset) == len(pages) and is_unchanged(pages.raw):
                    library.madvise(start, end - start, _DONT_NEED)
    except OSError:
        return


def code_mappings(maps: str) -> list[tuple[int, int]]:
    """Where the code of libraries lies, by ``/proc/PID/maps``: (first address, address behind the last)."""
    return [(int(found[1], 16), int(found[2], 16)) for found in _CODE.finditer(maps)]


def is_unchanged(pagemap: bytes) -> bool:
    """Whether all pages of a mapping are those of its file, by its part of ``/proc/PID/pagemap``.

    Source: the kernel's documentation, admin-guide/mm/pagemap.
    """
    pages = np.frombuffer(pagemap, np.uint64)
    own = (pages & _PRESENT != 0) & (pages & _OF_FILE == 0)
    return not bool((own | (pages & _SWAPPED != 0)).any())


@cache
def _library() -> ctypes.PyDLL:
    """The C library, called without letting go of Python's lock: a thread that waits for it would keep it each time."""
    library = ctypes.PyDLL(None)
    library.madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    library.pread.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int64)
    library.pread.restype = ctypes.c_ssize_t
    return library
