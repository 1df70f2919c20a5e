"""Which of the caches that earlier generations left serves a prompt, and what is to become of it.

Knows no lock and no memory limit: the pool does; see ``sequences``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from edgelm.runtime.kv_cache import KVCache
from edgelm.runtime.sequence_decoder import Ids, SequenceDecoder
from edgelm.runtime.sliding import SlidingWindow

# What is computed anew within some tens of milliseconds is not worth a cache of its own.
LEAST_WORTH_KEEPING = 32

Use = Literal["continue", "copy", "move", "nothing"]


@dataclass(eq=False)
class KeptCache:
    """A decoder that nobody uses now, with what is in its cache.

    Attributes:
        decoder: it.
        ids: (T,) the sequence, of which the cache holds all but what ``dropped`` says.
    """

    decoder: SequenceDecoder
    ids: Ids

    @property
    def dropped(self) -> int:
        """Tokens behind the first ones that are in the cache no more."""
        cache = self.decoder.cache
        return cache.dropped if isinstance(cache, KVCache) else 0

    @property
    def can_be_copied(self) -> bool:
        """Whether another decoder can take over what is in the cache."""
        return isinstance(self.decoder.cache, KVCache)

    def held(self, tokens: int) -> int:
        """How many of the sequence's first ``tokens`` are in the cache; it was found to spare them."""
        return tokens if tokens <= SlidingWindow.sinks else tokens - self.dropped

    def beginning_of(self, ids: Ids) -> int:
        """How many tokens it holds of the beginning of ``ids``; of a cache that has dropped some: all it has, or none.

        What was dropped is gone for good, so such a cache cannot be taken back to where two sequences part.
        """
        common = common_prefix(self.ids, ids)
        return common if self.dropped == 0 or common == len(self.ids) else 0

    def spares(self, prompt: Ids, window: SlidingWindow | None) -> int:
        """How many of a prompt's first tokens need not be computed, as they would be without this cache, too.

        ``window``: how the sequence is to go on past the context window; None: it is not.
        """
        common = common_prefix(self.ids, prompt)
        if self.dropped == 0:
            return common if window is None or window.dropped_at(common) == 0 else 0
        if window is not None and window.dropped_at(common) == self.dropped:
            return common
        return min(common, SlidingWindow.sinks)


class Plan(NamedTuple):
    """How to begin a prompt.

    Attributes:
        use: ``continue`` the kept decoder, ``copy`` from its cache and leave it as it is, ``move`` what is shared out
            of it and let the rest go, or ``nothing``.
        kept: the cache; None with ``nothing``.
        shared: tokens that come from it.
        tokens: how many the sequence may come to, prompt and answer.
    """

    use: Use
    kept: KeptCache | None
    shared: int
    tokens: int

    @property
    def capacity(self) -> int:
        """Tokens for which there will be room."""
        if self.use == "continue" and self.kept is not None:
            return max(self.tokens, self.kept.decoder.cache.capacity)
        return self.tokens


def plan_for(kept: Sequence[KeptCache], keep: int, prompt: Ids, tokens: int, window: SlidingWindow | None) -> Plan:
    """What serves a prompt best; at least one of its tokens is left to compute.

    Args:
        kept: least recently used first.
        keep: how many caches may be kept.
        prompt: (T,) token ids.
        tokens: how many the sequence may come to, prompt and answer.
        window: see ``KeptCache.spares``.
    """
    head = prompt[: max(len(prompt) - 1, 0)]
    spared = [each.spares(head, window) for each in kept]
    shared = max(spared, default=0)
    if not shared:
        return Plan("nothing", None, 0, tokens)
    best = kept[spared.index(shared)]
    # Where the best one is the next to go, it may as well go now; a prompt asked again needs no second cache.
    goes_next = len(kept) >= keep and best is kept[0]
    rest = len(best.ids) - shared
    if best.can_be_copied and rest >= LEAST_WORTH_KEEPING and shared < len(head) and not goes_next:
        return Plan("copy", best, shared, tokens)
    return Plan("continue", best, shared, tokens)


def common_prefix(a: Ids, b: Ids) -> int:
    """How many tokens both begin with."""
    length = min(len(a), len(b))
    different = np.nonzero(a[:length] != b[:length])[0]
    return int(different[0]) if len(different) else length
