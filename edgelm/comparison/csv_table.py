"""A comparison as CSV: one line a row, with a column for each setting in which configurations differ."""

from __future__ import annotations

import csv
import io
import json
from typing import Any

from edgelm.comparison.results import AXES, Comparison

_COUNTS = ("finish_reason", "prompt_tokens", "cached_tokens")


def csv_table(comparison: Comparison) -> str:
    """The table, with a line of names first; texts are whole, and what was not measured is empty."""
    varied = varied_settings(comparison)
    names = [*AXES, *varied, *comparison.measures, *_COUNTS, "text"]
    table = io.StringIO(newline="")
    writer = csv.DictWriter(table, names, lineterminator="\r\n")
    writer.writeheader()
    for row in comparison.rows:
        values = row.as_dict()
        own = {name: _plain(row.settings.get(name)) for name in varied}
        writer.writerow({**{name: values.get(name) for name in names}, **own})
    return table.getvalue()


def varied_settings(comparison: Comparison) -> tuple[str, ...]:
    """Names of the settings that are not the same in all rows, in the order in which they came."""
    names = dict.fromkeys(name for row in comparison.rows for name in row.settings)
    values = {name: [_plain(row.settings.get(name)) for row in comparison.rows] for name in names}
    return tuple(name for name in names if any(value != values[name][0] for value in values[name]))


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, (str, int, float)):
        return value
    return json.dumps(value, ensure_ascii=False, default=str)
