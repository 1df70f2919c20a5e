"""Records from a file: one JSON object a line (``.jsonl``), or a table with a line of names (``.csv``, ``.tsv``)."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from edgelm.errors import PromptError
from edgelm.text.utf8 import decode_utf8

MAX_BYTES = 64_000_000
_SEPARATORS = {".csv": ",", ".tsv": "\t"}
_SUFFIXES = (".jsonl", *_SEPARATORS)


@dataclass(frozen=True, slots=True)
class Record:
    """Named values, and where they were found, for messages: ``examples.csv, line 3``."""

    where: str
    fields: Mapping[str, Any]


def read_records(path: str | os.PathLike[str]) -> tuple[Record, ...]:
    """All records of a file, in its order; empty lines are none.

    Raises:
        PromptError: it cannot be read, is of another kind, or a line is not of the right form; names file and line.
    """
    file = Path(path)
    suffix = file.suffix.lower()
    if suffix not in _SUFFIXES:
        raise PromptError(f"{file}: records are read from files ending in {', '.join(_SUFFIXES)}")
    text = _read(file)
    lines = _objects(text, file) if suffix == ".jsonl" else _rows(text, file, _SEPARATORS[suffix])
    return tuple(Record(f"{file.name}, line {line}", fields) for line, fields in lines)


def _read(file: Path) -> str:
    try:
        with file.open("rb") as opened:
            data = opened.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise PromptError(f"{file}: {getattr(error, 'strerror', None) or error}") from error
    if len(data) > MAX_BYTES:
        raise PromptError(f"{file} has more than the {MAX_BYTES} bytes that are read at once")
    return decode_utf8(data, str(file)).removeprefix("\ufeff")


def _objects(text: str, file: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    # Not str.splitlines, which also breaks at characters that JSON allows within strings.
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            value = json.loads(line, parse_constant=_refuse)
        except (ValueError, RecursionError) as error:
            raise PromptError(f"{file}, line {number}: not JSON: {error}") from error
        if not isinstance(value, dict):
            raise PromptError(f"{file}, line {number}: must be an object with named values, not {value!r:.80}")
        yield number, value


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON")


def _rows(text: str, file: Path, separator: str) -> Iterator[tuple[int, dict[str, str]]]:
    # A tab-separated table has no quotes of its own where nothing is quoted: both readings agree on those.
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    names: list[str] = []
    try:
        for cells in reader:
            if not cells:
                continue
            if not names:
                names = _header(cells, file)
            elif len(cells) != len(names):
                raise PromptError(
                    f"{file}, line {reader.line_num}: has {len(cells)} cells, but the first line names {len(names)}"
                )
            else:
                yield reader.line_num, dict(zip(names, cells, strict=True))
    except csv.Error as error:
        raise PromptError(f"{file}, line {reader.line_num}: {error}") from error


def _header(cells: list[str], file: Path) -> list[str]:
    names = [cell.strip() for cell in cells]
    if "" in names or len(set(names)) < len(names):
        raise PromptError(f"{file}, line 1: must name every column once, not {', '.join(map(repr, names)):.80}")
    return names
