"""Of which kind a ``tokenizer.json`` is, without parsing megabytes."""

from __future__ import annotations

import re
from pathlib import Path

from edgelm.bundle.manifest_parts import TOKENIZER_KINDS

_MODEL = re.compile(rb'"type"\s*:\s*"(' + "|".join(TOKENIZER_KINDS).encode() + rb')"')
# The model comes after normalizers, one of which may carry a table of some 300 kB, and before its vocabulary.
_MOST_BEFORE_VOCABULARY = 1 << 20


def tokenizer_kind(data: bytes) -> str | None:
    """One of ``TOKENIZER_KINDS``; None where the file, or its beginning, does not tell."""
    found = _MODEL.search(data, 0, _MOST_BEFORE_VOCABULARY)
    return found[1].decode() if found else None


def kind_of_file(path: Path) -> str | None:
    """As ``tokenizer_kind``; of a file that may be of any size, only the beginning is read."""
    with path.open("rb") as file:
        return tokenizer_kind(file.read(_MOST_BEFORE_VOCABULARY))
