"""What a pool of decoders holds, in short."""

from __future__ import annotations

from edgelm.runtime.sequences import SequencePool


def demand(pool: SequencePool) -> tuple[int, int]:
    """How many generations there are, and for how many tokens in all their caches have, or will have, room."""
    needs = pool.needs()
    return needs.sequences, needs.tokens
