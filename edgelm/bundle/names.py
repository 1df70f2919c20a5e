"""Which names files of a bundle and models may have: one plain component that means the same on every system.

Files of a repository have paths, and its authors' names: these only may not lead out of its folder.
"""

from __future__ import annotations

import re
import unicodedata

MAX_NAME_BYTES = 255
MODEL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")

_DRIVE = re.compile(r"[A-Za-z]:")
_FORBIDDEN = frozenset('/\\:*?"<>|')
_DIGITS = "123456789¹²³"
_DEVICES = frozenset(
    ["con", "prn", "aux", "nul", "conin$", "conout$", *(f"com{d}" for d in _DIGITS), *(f"lpt{d}" for d in _DIGITS)]
)


def name_fault(name: str) -> str | None:
    """Why ``name`` cannot name a file inside a bundle's folder, or None when it can.

    A colon covers drive letters and NTFS streams; a leading dot covers ``.`` and ``..``.
    """
    if not name:
        return "is empty"
    if not name.isprintable():
        return "has a control character"
    if _FORBIDDEN & set(name):
        return f"has one of {' '.join(sorted(_FORBIDDEN))}: it must be a plain name in the bundle's own folder"
    if name.startswith("."):
        return "begins with a dot"
    if name[-1] in ". ":
        return "ends with a dot or a space"
    if name.partition(".")[0].rstrip().casefold() in _DEVICES:
        return "is a device name on Windows"
    if len(name.encode("utf-8")) > MAX_NAME_BYTES:
        return f"is longer than {MAX_NAME_BYTES} bytes"
    return None


def path_fault(path: str) -> str | None:
    """Why ``path``, with slashes between its parts, may not lie inside the folder it is joined to; None when it does.

    Windows leaves out dots and spaces at the end of a part, so that one of nothing else is none, or leads up.
    """
    if "\\" in path or "\0" in path:
        return "has a backslash or a NUL character"
    if _DRIVE.match(path):
        return "begins with a drive letter"
    if not all(part.strip(". ") for part in path.split("/")):
        return "is absolute, or has a part that is empty or only dots"
    return None


def name_key(name: str) -> str:
    """What two names share when some file system would take them for one (letter case, composed accents)."""
    return unicodedata.normalize("NFC", name).casefold()
