"""Gives back memory of what was read to be set up: code of libraries, and weights that lie in files.

The pages are those of files, unchanged, so that the system has them again at once where they are needed. What has a
page that is not as in its file is left alone: who changed it, such as a debugger or a tracer, relies on it.
"""

from __future__ import annotations

import ctypes
import mmap
import re
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np

_PROC = Path("/proc/self")
_DONT_NEED = 4  # of Linux
# The line of a mapping of a library's code, and of the weights of a prepacked copy (see ``prepack``).
CODE = re.compile(r"^([0-9a-f]+)-([0-9a-f]+) r-xp \S+ \S+ \S+\s+/.*\.so(?:\.[\d.]+)?$", re.MULTILINE)
WEIGHTS = re.compile(r"^([0-9a-f]+)-([0-9a-f]+) r[w-]-p \S+ \S+ \S+\s+/.*/graph\.onnx\.data$", re.MULTILINE)
# What the system tells of a page: 64 bits, of which these say that it is in memory, swapped out, and a file's.
_ENTRY_BYTES = 8
_PRESENT, _SWAPPED, _OF_FILE = (np.uint64(1 << bit) for bit in (63, 62, 61))


def give_back_code() -> None:
    """Lets go of the code of libraries; does nothing but on Linux."""
    _give_back(CODE)


def give_back_weights() -> None:
    """Lets go of the weights that loading a graph has looked at so far; does nothing but on Linux."""
    _give_back(WEIGHTS)


def absent_weights() -> int:
    """Bytes of mapped weights that are not in memory now, and come to be as they are used; 0 but on Linux."""
    absent = 0
    for _, _, pages in _mapped(WEIGHTS):
        absent += mmap.PAGESIZE * int(np.count_nonzero(np.frombuffer(pages, np.uint64) & _PRESENT == 0))
    return absent


def mappings(maps: str, kind: re.Pattern[str]) -> list[tuple[int, int]]:
    """Where files of a kind are mapped, by ``/proc/PID/maps``: (first address, address behind the last).

    What lies side by side is one, as the weights of a graph do, which are mapped one by one.
    """
    places: list[tuple[int, int]] = []
    for found in kind.finditer(maps):
        start, end = int(found[1], 16), int(found[2], 16)
        if places and places[-1][1] == start:
            start = places.pop()[0]
        places.append((start, end))
    return places


def is_unchanged(pagemap: bytes) -> bool:
    """Whether all pages of a mapping are those of its file, by its part of ``/proc/PID/pagemap``.

    Source: the kernel's documentation, admin-guide/mm/pagemap.
    """
    pages = np.frombuffer(pagemap, np.uint64)
    own = (pages & _PRESENT != 0) & (pages & _OF_FILE == 0)
    return not bool((own | (pages & _SWAPPED != 0)).any())


def _give_back(kind: re.Pattern[str]) -> None:
    for start, end, pages in _mapped(kind):
        if is_unchanged(pages):
            _library().madvise(start, end - start, _DONT_NEED)


def _mapped(kind: re.Pattern[str]) -> Iterator[tuple[int, int, bytes]]:
    """Mappings of a kind, with their parts of ``/proc/PID/pagemap``; none where the system does not tell."""
    if sys.platform != "linux":
        return
    try:
        places = mappings((_PROC / "maps").read_text(errors="replace"), kind)
        with (_PROC / "pagemap").open("rb", buffering=0) as file:
            for start, end in places:
                pages = ctypes.create_string_buffer(_ENTRY_BYTES * ((end - start) // mmap.PAGESIZE))
                offset = _ENTRY_BYTES * (start // mmap.PAGESIZE)
                if _library().pread(file.fileno(), pages, len(pages), offset) == len(pages):
                    yield start, end, pages.raw
    except OSError:
        return


@cache
def _library() -> ctypes.PyDLL:
    """The C library, called without letting go of Python's lock: a thread that waits for it would keep it each time."""
    library = ctypes.PyDLL(None)
    library.madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    library.pread.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int64)
    library.pread.restype = ctypes.c_ssize_t
    return library
