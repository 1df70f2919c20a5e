"""JSON as checkpoints may carry it: one object, as strict as in a bundle."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgelm.bundle.strict_json import load_json
from edgelm.errors import ManifestError, ModelError

MAX_JSON_BYTES = 64 * 2**20


def parse_json_object(data: bytes, source: str) -> dict[str, Any]:
    """Parses one JSON object; ``source`` says in errors where the bytes came from.

    Raises:
        ModelError: it is refused by ``load_json``, or not an object.
    """
    try:
        value = load_json(data, what=source, limit=MAX_JSON_BYTES)
    except ManifestError as error:
        raise ModelError(str(error)) from None
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
