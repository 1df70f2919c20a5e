"""A sequence on the decoder graphs of another tool: what ``runtime.decoder`` is for our own."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from edgelm.runtime.foreign.caches import Cache
from edgelm.runtime.foreign.graph import StepGraph
from edgelm.runtime.session import Switch, give_back_freed_memory
from edgelm.runtime.token_rows import Ids, check_room


class ForeignDecoder:
    """One sequence.

    Args:
        graph: the loaded graphs.
        context_length: tokens that the sequence may have.
        prefill_chunk: tokens computed in one run.
    """

    def __init__(self, graph: StepGraph, *, context_length: int, prefill_chunk: int) -> None:
        self.context_length = context_length
        self.vocab_size = graph.vocab_size
        self.prefill_chunk = prefill_chunk
        self.cache: Cache = graph.new_cache(1)
        self._graph = graph
        self._switches = {"prefill": Switch(shrink=True), "step": Switch()}

    @property
    def length(self) -> int:
        """Tokens in the cache."""
        return int(self.cache.lengths[0])

    def prefill(self, ids: Ids) -> NDArray[np.float32]:
        """Appends tokens and returns the last one's logits, (V,) float32.

        Raises:
            ContextLengthError: they do not fit behind those already there.
        """
        tokens = np.asarray(ids, np.int64)
        last = np.empty(0, np.float32)
        for chunk in self._chunks(tokens):
            last = self._run(chunk, "prefill" if chunk.size > 1 else "step")
            if chunk.size >= self.prefill_chunk:  # what chunks leave behind would add up
                give_back_freed_memory()
        return last

    def step(self, token: int) -> NDArray[np.float32]:
        """Appends one token and returns its logits, (V,) float32.

        Raises:
            ContextLengthError: the context window is full.
        """
        check_room(self.length + 1, self.context_length)
        return self._run(np.array([[token]], np.int64), "step")

    @property
    def verifies(self) -> bool:
        """Whether the graph takes several tokens behind a past."""
        return self._graph.appends_many

    def verify(self, ids: Ids) -> NDArray[np.float32]:
        """Appends a few tokens in one run and returns the logits of each, (S, V) float32.

        Raises:
            ContextLengthError: they do not fit behind those already there.
        """
        check_room(self.length + len(ids), self.context_length)
        return self._run(np.asarray(ids, np.int64)[None], "step", whole=True)

    def all_logits(self, ids: Ids) -> Iterator[NDArray[np.float32]]:
        """Appends tokens and yields the logits of every one, chunk by chunk: (S, V) float32 each."""
        for chunk in self._chunks(np.asarray(ids, np.int64)):
            yield self._run(chunk, "prefill", whole=True)

    def rewind(self, length: int) -> None:
        """Forgets all but the first ``length`` tokens."""
        if not 0 <= length <= self.length:
            raise ValueError(f"cannot rewind a cache of {self.length} tokens to {length}")
        self.cache.rewind(length)

    def cancel(self) -> None:
        """Ends the run in progress, from another thread; this decoder cannot be used again."""
        for switch in self._switches.values():
            switch.turn_off()

    def reserve(self, tokens: int) -> None:
        """Nothing: these caches grow as they are used."""

    def _run(self, tokens: NDArray[np.int64], switch: str, *, whole: bool = False) -> NDArray[np.float32]:
        """(V,) of the last token, or (S, V)."""
        logits = self._graph.run(tokens, self.cache, self._switches[switch], whole=whole)
        row: NDArray[np.float32] = logits[0]
        return row

    def _chunks(self, ids: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
        if not len(ids):
            raise ValueError("there is no token to compute")
        check_room(self.length + len(ids), self.context_length)
        yield from chunks(ids[None], self._graph, self.cache, self.prefill_chunk)


def chunks(tokens: NDArray[np.int64], graph: StepGraph, cache: Cache, size: int) -> Iterator[NDArray[np.int64]]:
    """Cuts (B, T) tokens into what one run takes: a graph for the first run takes all, one behind a past a token."""
    if not graph.appends_many:
        size = 1 if not cache.is_empty else tokens.shape[1]
    for start in range(0, tokens.shape[1], size):
        yield tokens[:, start : start + size]
