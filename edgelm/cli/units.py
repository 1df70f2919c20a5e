"""Numbers for people."""

from __future__ import annotations

import time
from collections.abc import Sequence

_UNITS = ("B", "kB", "MB", "GB", "TB")


def size_text(count: float) -> str:
    """Bytes in powers of 1000: ``93 MB``, ``1.5 GB``."""
    for unit in _UNITS[:-1]:
        if count < 999.5:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} {_UNITS[-1]}"


def age_text(moment: float) -> str:
    """How long ago a moment (seconds since 1970) is: ``3 hours ago``."""
    seconds = max(0, int(time.time() - moment))
    for name, length in (("day", 86_400), ("hour", 3_600), ("minute", 60)):
        count = seconds // length
        if count:
            return f"{count} {name}{'s' if count > 1 else ''} ago"
    return "just now"


def table(header: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    """Columns aligned to the left, two spaces between them, no spaces at the end of a line."""
    lines = [header, *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )
