"""What a model takes in memory at several lengths of the context: a table with bars, and plain values."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from edgelm.bundle.manifest import Manifest
from edgelm.cli.units import size_text
from edgelm.config import ENCODER_BATCH_TOKENS, KV_CACHE_TYPES, KVCacheType, RuntimeConfig
from edgelm.errors import MemoryLimitError
from edgelm.runtime.fitting import Limit, fit, largest
from edgelm.runtime.memory import Budget, budget, encoder_budget

_CONTEXTS = (512, 2048, 8192, 32768, 131072)
_TEXT_LENGTHS = (128, *_CONTEXTS)
# Parts of the budget as people call them.
_PARTS = {
    "interpreter": "Python and libraries",
    "text": "tokenizer",
    "graph": "graph",
    "weights": "weights",
    "kv_cache": "KV cache",
    "cross": "sources",
    "activations": "activations",
    "loading": "loading",
    "draft": "draft model",
}
_EIGHTHS = " ▏▎▍▌▋▊▉█"
_LEAST_BAR, _WIDEST_BAR = 8, 40
_BLUE, _PLAIN = "\x1b[36m", "\x1b[0m"


@dataclass(frozen=True, slots=True)
class Need:
    """What a context of ``tokens`` takes with a KV cache of that type; None for a model without one."""

    tokens: int
    kv_type: KVCacheType | None
    parts: Budget

    def as_dict(self) -> dict[str, Any]:
        """Plain values: bytes, but for tokens and type."""
        cache = {} if self.kv_type is None else {"kv_type": self.kv_type}
        return {"tokens": self.tokens, **cache, **dataclasses.asdict(self.parts), "total": self.parts.total}


def need_of(manifest: Manifest, tokens: int, kv_type: KVCacheType | None = None) -> Need:
    """Of prompt and answer; of an encoder's texts, in usual batches; of a source and of its answer."""
    if manifest.family == "encoder":
        return Need(tokens, None, encoder_budget(manifest, batch_tokens=ENCODER_BATCH_TOKENS, longest=tokens))
    usual = RuntimeConfig()
    kept = kv_type or usual.kv_cache
    parts = budget(manifest, tokens=tokens, prefill_chunk=usual.prefill_chunk, kv_cache=kept)
    return Need(tokens, None if manifest.kv is None else kept, parts)


def needs_of(manifest: Manifest, kv_types: Iterable[KVCacheType], tokens: int | None = None) -> list[Need]:
    """At usual lengths, the longest last: the model's own limit, or ``tokens``."""
    most = manifest.context_length if tokens is None else min(tokens, manifest.context_length)
    usual = _TEXT_LENGTHS if manifest.family == "encoder" else _CONTEXTS
    lengths = [*(length for length in usual if length < most), most]
    types: list[KVCacheType | None] = [None] if manifest.kv is None else list(kv_types)
    return [need_of(manifest, length, kv_type) for kv_type in types for length in lengths]


def kv_types_of(manifest: Manifest) -> tuple[KVCacheType, ...]:
    """The types of KV cache that a model can be run with."""
    return ("f32",) if manifest.kv is None or manifest.kv.scales is None else KV_CACHE_TYPES


def most_tokens(manifest: Manifest, limit: int, kv_type: KVCacheType | None = None) -> int:
    """The longest context that fits into ``limit`` bytes, with whatever step that takes; 0: none does.

    ``kv_type``: with a cache of this type; None: of any.
    """
    runtime = RuntimeConfig.given(kv_cache=kv_type)
    return largest(lambda tokens: _fits(manifest, runtime, tokens, limit), manifest.context_length)


def _fits(manifest: Manifest, runtime: RuntimeConfig, tokens: int, limit: int) -> bool:
    try:
        fit(manifest, runtime, tokens, limit=Limit(limit))
    except MemoryLimitError:
        return False
    return True


def memory_text(needs: Sequence[Need], *, width: int, colour: bool) -> str:
    """A table for each type of cache: a row a part, a column a length, and bars of the longest that has a column."""
    types = list(dict.fromkeys(need.kv_type for need in needs))
    tables = [_table([need for need in needs if need.kv_type == kv_type], width, colour) for kv_type in types]
    return "\n\n".join(tables)


def _table(needs: Sequence[Need], width: int, colour: bool) -> str:
    names = [name for name in _PARTS if any(getattr(need.parts, name) for need in needs)]
    kv_type = needs[0].kv_type
    title = "Memory" if kv_type is None else f"Memory, KV cache of {kv_type}"
    head = ("  TOKENS", *(str(need.tokens) for need in needs))
    rows = [(f"  {_PARTS[name]}", *(_cell(getattr(need.parts, name)) for need in needs)) for name in names]
    total = ("  in all", *(_cell(need.parts.total) for need in needs))
    shown = _columns_that_fit([head, *rows, total], width)
    longest = needs[len(shown[0]) - 2].parts
    lines = _aligned(shown)
    room = min(_WIDEST_BAR, width - max(map(len, lines)) - 2)
    largest = max(getattr(longest, name) for name in names)
    for place, name in enumerate(names, start=1):
        bar = _bar(getattr(longest, name) / largest, room) if room >= _LEAST_BAR else ""
        lines[place] += f"  {_BLUE}{bar}{_PLAIN}" if bar and colour else f"  {bar}" if bar else ""
    return "\n".join([title, *lines])


def _columns_that_fit(rows: Sequence[tuple[str, ...]], width: int) -> list[tuple[str, ...]]:
    """The rows without the columns that would leave no room for bars; the first length always stays."""
    count = len(rows[0])
    while count > 2 and max(map(len, _aligned([row[:count] for row in rows]))) + 2 + _LEAST_BAR > width:
        count -= 1
    return [row[:count] for row in rows]


def _aligned(rows: Sequence[tuple[str, ...]]) -> list[str]:
    """The first column to the left, numbers to the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  ".join(
            [row[0].ljust(widths[0]), *(cell.rjust(size) for cell, size in zip(row[1:], widths[1:], strict=True))]
        )
        for row in rows
    ]


def _cell(count: int) -> str:
    return size_text(count) if count else "-"


def _bar(share: float, width: int) -> str:
    whole, eighths = divmod(round(share * width * 8), 8)
    return "█" * whole + (_EIGHTHS[eighths] if eighths else "")
