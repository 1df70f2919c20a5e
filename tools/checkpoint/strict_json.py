"""JSON as checkpoints may carry it: one object, no repeated names, no NaN or infinity, no endless nesting."""

from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path
from typing import Any, NoReturn

from edgelm.errors import ModelError

MAX_JSON_BYTES = 64 * 2**20


def parse_json_object(data: bytes, source: str) -> dict[str, Any]:
    """Parses one JSON object; ``source`` says in errors where the bytes came from.

    Raises:
        ModelError: it is not UTF-8, not JSON, not an object, repeats a name, or holds NaN or infinity.
    """
    try:
        value = json.loads(
            data.decode("utf-8"),
            object_pairs_hook=_object_without_repeats,
            parse_constant=_refuse_constant,
            parse_float=_finite_float,
        )
    except RecursionError:
        raise ModelError(f"{source}: the JSON is nested too deeply") from None
    except ValueError as error:
        raise ModelError(f"{source}: not valid JSON: {error}") from None
    if not isinstance(value, dict):
        raise ModelError(f"{source}: must be a JSON object, not {type(value).__name__}")
    return value


def read_json_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file of at most 64 MiB.

    Raises:
        ModelError: the file cannot be read, is too large, or is not such an object.
    """
    return parse_json_object(read_small_file(path, MAX_JSON_BYTES), str(path))


def read_small_file(path: Path, limit: int) -> bytes:
    """The bytes of a regular file of at most ``limit`` bytes.

    Raises:
        ModelError: the file is missing, too large, or cannot be read.
    """
    if not path.is_file():
        raise ModelError(f"{path}: no such file")
    try:
        with path.open("rb") as file:
            data = file.read(limit + 1)
    except OSError as error:
        raise ModelError(f"{path}: cannot be read: {error.strerror}") from error
    if len(data) > limit:
        raise ModelError(f"{path}: larger than the {limit} bytes allowed for such a file")
    return data


def _object_without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        repeated, _ = Counter(name for name, _ in pairs).most_common(1)[0]
        raise ValueError(f"the name {repeated!r:.80} is repeated")
    return result


def _refuse_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is not a JSON number")


def _finite_float(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"the number {text:.40} is out of range")
    return number
