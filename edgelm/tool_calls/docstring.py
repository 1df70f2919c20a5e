"""Google-style docstrings: what a function does, what its arguments are, what it returns."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import NamedTuple

_SECTION = re.compile(r"\s*(Args|Returns|Raises):\s*(.*)")
_ARGUMENT = re.compile(r"\s*(\w+)(?:\s*\([^)]*\))?:\s*(.*)")


class Docstring(NamedTuple):
    """The parts of a docstring; ``arguments``: name → description on one line."""

    description: str
    arguments: dict[str, str]
    returns: str | None


def parse_docstring(text: str, names: Collection[str]) -> Docstring:
    """Parts a docstring, without indentation (``inspect.getdoc``), of a function whose arguments are ``names``."""
    sections: dict[str, list[str]] = {"": []}
    lines = sections[""]
    for line in text.strip().splitlines():
        heading = _SECTION.fullmatch(line)
        if heading and heading[1] not in sections:
            lines = sections.setdefault(heading[1], [])
            line = heading[2]
        lines.append(line)
    returns = "\n".join(line.strip() for line in sections.get("Returns", ())).strip()
    return Docstring(
        description="\n".join(sections[""]).strip(),
        arguments=_arguments(sections.get("Args", []), names),
        returns=returns or None,
    )


def _arguments(lines: list[str], names: Collection[str]) -> dict[str, str]:
    found: dict[str, list[str]] = {}
    words: list[str] = []
    for line in lines:
        start = _ARGUMENT.fullmatch(line)
        if start and start[1] in names:
            words = found[start[1]] = []
            line = start[2]
        words.append(line.strip())
    return {name: " ".join(filter(None, words)) for name, words in found.items()}
