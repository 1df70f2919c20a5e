"""A comparison as a table for terminals: as wide as they are, with long texts cut; elsewhere texts are whole."""

from __future__ import annotations

import shutil
import sys
import unicodedata
from typing import TYPE_CHECKING

from edgelm.cli import console
from edgelm.cli.console import one_line

if TYPE_CHECKING:
    from edgelm.comparison.results import Comparison

_GAP = "  "
# Less room than this beside the figures, and a text gets a line of its own.
_LEAST_TEXT = 24
_MOST_NAME = 40
_INDENT = "    "
_ELLIPSIS = "…"


def comparison_table(comparison: Comparison, width: int | None) -> str:
    """The table, with a line of names first.

    Args:
        comparison: it.
        width: columns of the terminal; None: nothing is cut.
    """
    from edgelm.comparison.columns import COLUMNS, measured

    axes, measures = comparison.axes, comparison.measures
    most = None if width is None else _MOST_NAME
    lines = [[*axes, *(COLUMNS[name][0] for name in measures)]]
    for row in comparison.rows:
        named = [getattr(row, axis) for axis in axes]
        cells = ["" if value is None else cut(one_line(str(value).expandtabs(1)), most) for value in named]
        lines.append([*cells, *(measured(row, name) for name in measures)])
    widths = [max(map(display_width, column)) for column in zip(*lines, strict=True)]
    room = None if width is None else width - sum(widths) - len(_GAP) * len(widths)
    texts = ["text", *(one_line(row.text.expandtabs(1)) for row in comparison.rows)]
    below = room is not None and width is not None and room < _LEAST_TEXT
    shown = []
    for cells, text in zip(lines, texts, strict=True):
        figures = _GAP.join(
            _padded(*each, right=i >= len(axes)) for i, each in enumerate(zip(cells, widths, strict=True))
        )
        if below and width is not None:
            shown.append(figures.rstrip())
            if text is not texts[0]:
                shown.append(_INDENT + cut(text, max(1, width - len(_INDENT))))
        else:
            shown.append((figures + _GAP + cut(text, room)).rstrip())
    return "\n".join(shown) + "\n"


def terminal_width() -> int | None:
    """Columns of the terminal that stdout is; None where it is none."""
    return shutil.get_terminal_size().columns if console.is_terminal(sys.stdout) else None


def cut(text: str, width: int | None) -> str:
    """The text, its end replaced by … where it is wider."""
    if width is None or display_width(text) <= width:
        return text
    kept, taken = [], 0
    for character in text:
        taken += _character_width(character)
        if taken > width - 1:
            break
        kept.append(character)
    return "".join(kept) + _ELLIPSIS


def display_width(text: str) -> int:
    """Columns that the text takes: two for each wide character, as Chinese ones are, none for combining ones."""
    return sum(map(_character_width, text))


def _character_width(character: str) -> int:
    if unicodedata.combining(character):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def _padded(text: str, width: int, *, right: bool) -> str:
    space = " " * (width - display_width(text))
    return space + text if right else text + space
