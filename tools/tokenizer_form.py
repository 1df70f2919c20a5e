"""A ``tokenizer.json`` in the form that is read soonest, with the same content."""

from __future__ import annotations

import json
from typing import Any

# The library skips merges in one string that begin so: the first line of a ``merges.txt``.
_VERSION_MARK = "#version"


def quick_to_read(data: bytes) -> bytes:
    """The file with each merge of a BPE in one string, ``"t h"``, where its two tokens allow that; else as it is.

    ``tokenizers`` takes a third less time and half the memory for these than for pairs, ``["t", "h"]``, which later
    versions write since a token may have a space in it.
    """
    file = json.loads(data)
    model = file.get("model") if isinstance(file, dict) else None
    if not isinstance(model, dict) or model.get("type") != "BPE":
        return data
    merges = model.get("merges")
    if not isinstance(merges, list) or not all(map(_is_plain_pair, merges)):
        return data
    try:
        lines = [" ".join(pair) for pair in merges]
        return json.dumps(
            file | {"model": model | {"merges": lines}}, ensure_ascii=False, separators=(",", ":")
        ).encode()
    except UnicodeEncodeError:  # a lone surrogate can be written as an escape only
        return data


def _is_plain_pair(merge: Any) -> bool:
    return (
        isinstance(merge, list)
        and len(merge) == 2
        and all(isinstance(token, str) and token and " " not in token for token in merge)
        and not merge[0].startswith(_VERSION_MARK)
    )
