"""The JSON files that models bring beside the manifest: how much of each is read."""

from __future__ import annotations

from typing import Any

from edgelm.bundle.strict_json import load_json

_MAX_BYTES = 1 << 20
_LARGER = {
    "config.json": 8 << 20,  # names all labels twice, of which there may be 65,536
    "tokenizer_config.json": 4 << 20,  # lists all added tokens: Gemma 3's has 1.2 MB
}
# Memory goes by the number of values: an empty list has 3 bytes in a file, and 70 in memory.
_BYTES_PER_VALUE = 32


def json_limit(name: str) -> int:
    """Bytes that a file of that name may have."""
    return _LARGER.get(name, _MAX_BYTES)


def load_json_file(data: bytes, name: str, *, what: str | None = None) -> Any:
    """The value of a file of that name, from its bytes; ``what`` names it in errors, in place of ``name``.

    Raises:
        ManifestError: larger than ``json_limit``, of more values than files of that size have, or refused by
            ``load_json``.
    """
    limit = json_limit(name)
    return load_json(data, what=what or name, limit=limit, values=limit // _BYTES_PER_VALUE)
