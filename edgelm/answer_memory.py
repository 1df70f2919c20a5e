"""Whether answers fit into memory beside those that are being made, and what helps where they do not."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from edgelm.bundle.manifest import Manifest
from edgelm.config import RuntimeConfig
from edgelm.errors import MemoryLimitError
from edgelm.runtime.fitting import largest
from edgelm.runtime.kv_cache_types import int8_cache_fault
from edgelm.runtime.memory import Budget, Needs, budget_of
from edgelm.runtime.process_memory import ProcessMemory

if TYPE_CHECKING:
    from edgelm.speculation import DraftModel


def check_answers(
    manifest: Manifest, runtime: RuntimeConfig, memory: ProcessMemory, draft: DraftModel | None, needs: Needs
) -> None:
    """Refuses what does not fit into memory, the newest request being part of it.

    Raises:
        MemoryLimitError: it does not; says what would.
    """
    try:
        memory.check(_budget(manifest, runtime, draft, needs))
    except MemoryLimitError as error:
        ways = ", ".join(_ways(manifest, runtime, memory, draft, needs))
        raise MemoryLimitError(f"{error}; {ways} or raise the limit") from None


def _budget(manifest: Manifest, runtime: RuntimeConfig, draft: DraftModel | None, needs: Needs) -> Budget:
    needed = budget_of(
        manifest,
        needs,
        prefill_chunk=runtime.prefill_chunk,
        kv_cache=runtime.kv_cache,
        threads=runtime.threads,
    )
    return replace(needed, draft=0 if draft is None else draft.bytes_for(needs))


def _ways(
    manifest: Manifest, runtime: RuntimeConfig, memory: ProcessMemory, draft: DraftModel | None, needs: Needs
) -> Iterator[str]:
    """What may be done, but for raising the limit; of a single answer with the length that fits."""
    limit = memory.limit()

    def holds(tokens: int, runtime: RuntimeConfig) -> bool:
        return limit.holds(_budget(manifest, runtime, draft, replace(needs, tokens=tokens, longest=tokens)))

    if needs.sequences > 1:
        others = needs.sequences - 1
        wait = f"wait for the other {others} to end" if others > 1 else "wait for the other to end"
        yield f"{needs.sequences} answers are being made at a time: {wait}"
    fewer = "ask for fewer tokens (max_new_tokens, -n)"
    if needs.sequences > 1 or needs.rows > 1 or needs.cross_tokens:
        yield fewer
        return
    most = largest(lambda tokens: holds(tokens, runtime), needs.tokens)
    yield f"{most} tokens of prompt and answer together would fit, not {needs.tokens}: {fewer}, shorten the prompt"
    smaller = replace(runtime, kv_cache="int8")
    if runtime.kv_cache == "f32" and int8_cache_fault(manifest) is None and holds(needs.tokens, smaller):
        yield "keep the KV cache in int8 (kv_cache, --kv-cache)"
