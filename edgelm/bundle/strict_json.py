"""JSON as a bundle may write it: what Python's own reader lets pass and no standard allows is refused.

Knows nothing about what the values mean.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable
from typing import Any, NoReturn

from edgelm.errors import ManifestError

MAX_DEPTH = 64

_SURROGATE_ESCAPE = re.compile(r"\\u[dD][89a-fA-F]")


class _RefusedValueError(ValueError):
    """Raised inside the parser's callbacks, where only the reason is known."""


def load_json(data: bytes, *, what: str, limit: int, values: int | None = None) -> Any:
    """The value of a UTF-8 JSON document.

    Args:
        data: the whole document.
        what: its name, which begins every message.
        limit: bytes it may have.
        values: how many values it may have, and with them brackets and commas in strings; None: any number.

    Raises:
        ManifestError: too large, too many values, not UTF-8, not JSON (RFC 8259), nested deeper than ``MAX_DEPTH``,
            or with a duplicate key, a number out of range, NaN, Infinity or half a surrogate pair in it.
    """
    if len(data) > limit:
        raise ManifestError(f"{what}: {len(data)} bytes, more than the {limit} allowed")
    if values is not None and sum(map(data.count, (b"[", b"{", b","))) > values:
        raise ManifestError(f"{what}: more than the {values} values allowed")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ManifestError(f"{what}: not UTF-8 at byte {error.start}") from None
    try:
        value = json.loads(
            text, object_pairs_hook=_unique_keys, parse_constant=_refuse_constant, parse_float=_finite_float
        )
    except RecursionError:
        raise _too_deep(what) from None
    except ValueError as error:  # JSONDecodeError, a refusal below, or an integer of more digits than Python reads
        raise ManifestError(f"{what}: not valid JSON: {error}") from None
    _check_depth(value, what)
    if _SURROGATE_ESCAPE.search(text):
        _check_surrogates(value, what)
    return value


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise _RefusedValueError(f"key {key[:80]!a} occurs twice")
            seen.add(key)
    return values


def _refuse_constant(name: str) -> NoReturn:
    raise _RefusedValueError(f"{name} is not a JSON number")


def _finite_float(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise _RefusedValueError(f"number {digits[:40]} is out of range")
    return number


def _check_depth(value: Any, what: str) -> None:
    """Level by level, so that the check itself cannot recurse too deep."""
    level = [value]
    for _ in range(MAX_DEPTH + 1):
        level = [child for parent in level for child in _children(parent)]
        if not level:
            return
    raise _too_deep(what)


def _children(value: Any) -> Iterable[Any]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()


def _too_deep(what: str) -> ManifestError:
    return ManifestError(f"{what}: nested deeper than the {MAX_DEPTH} levels allowed")


def _check_surrogates(value: Any, what: str) -> None:
    """A lone half cannot be encoded again: it would fail later, when it is printed or tokenized."""
    try:
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:
        raise ManifestError(f"{what}: not valid JSON: half a surrogate pair in a string") from None
