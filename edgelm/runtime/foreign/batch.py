"""Several sequences at a time on the decoder graphs of another tool: batches of prompts, samples, beams."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgelm.runtime.foreign.caches import Cache
from edgelm.runtime.foreign.decoder import chunks
from edgelm.runtime.foreign.graph import Source, StepGraph
from edgelm.runtime.session import Switch, give_back_freed_memory
from edgelm.runtime.token_rows import Ids, Logits, check_room

Rows = NDArray[np.int64]


@dataclass(eq=False)
class _Group:
    """Rows that run together: ``places`` among all rows, ``sources``: which of the sources each one has."""

    places: Rows
    sources: Rows
    cache: Cache
    source: Source | None


class ForeignBatch:
    """Rows with a cache each, a ``BatchDecoder``. Rows that may not be padded run in groups of one length.

    Args:
        graph: the loaded graphs.
        context_length: tokens that a row may have.
        prefill_chunk: tokens of all rows computed in one run.
        encode: in an encoder-decoder, computes what the encoder makes of the source of each prompt, in order, in a
            run that its argument may end; called once, when the rows begin.
    """

    def __init__(
        self,
        graph: StepGraph,
        *,
        context_length: int,
        prefill_chunk: int,
        encode: Callable[[Switch], Source] | None = None,
    ) -> None:
        self.vocab_size = graph.vocab_size
        self.context_length = context_length
        self._graph = graph
        self._chunk = prefill_chunk
        self._encode = encode
        self._groups: list[_Group] = []
        self._rows = 0
        self._switches = {"prefill": Switch(shrink=True), "step": Switch()}

    @property
    def length(self) -> int:
        """Tokens in the longest row."""
        return max((int(group.cache.lengths.max()) for group in self._groups), default=0)

    def reserve(self, rows: int, tokens: int) -> None:
        """Nothing: these caches grow as they are used."""

    def prefill(self, prompts: Sequence[Ids]) -> Logits:
        """Begins a row for each prompt, of one token or more; returns the logits after the last of each, (B, V).

        Raises:
            ContextLengthError: a prompt is longer than the context window.
        """
        arrays = [np.asarray(prompt, np.int64) for prompt in prompts]
        check_room(max(map(len, arrays)), self.context_length)
        self._rows = len(arrays)
        self._groups = []
        sources = None if self._encode is None else self._encode(self._switches["prefill"])
        logits = np.empty((len(arrays), self.vocab_size), np.float32)
        for places in self._together(arrays):
            group = _Group(
                places, places, self._graph.new_cache(len(places)), None if sources is None else sources.of(places)
            )
            together = np.stack([arrays[place] for place in places])
            for chunk in chunks(together, self._graph, group.cache, max(1, self._chunk // len(places))):
                logits[places] = self._run(group, chunk)
                if chunk.size >= self._chunk:  # what chunks leave behind would add up
                    give_back_freed_memory()
            self._groups.append(group)
        if self._graph.pads and len(self._groups) > 1:
            self._groups = [_joined(self._groups, sources)]
        return logits

    def step(self, tokens: Rows) -> Logits:
        """Appends one token to each row, (B,); returns the logits, (B, V).

        Raises:
            ContextLengthError: a row has no room for it.
        """
        check_room(self.length + 1, self.context_length)
        logits = np.empty((self._rows, self.vocab_size), np.float32)
        for group in self._groups:
            logits[group.places] = self._run(group, tokens[group.places, None])
        return logits

    def select(self, rows: Rows) -> None:
        """Row r becomes what row ``rows[r]`` was; the cache is copied once, and not where no row moves."""
        groups = []
        for group in self._groups:
            found = [(place, np.nonzero(group.places == row)[0]) for place, row in enumerate(rows)]
            kept = [(place, int(index[0])) for place, index in found if index.size]
            if kept:
                places, indices = np.array(kept, np.int64).T
                self._select(group, places, indices)
                groups.append(group)
        self._groups = groups
        self._rows = len(rows)

    def cancel(self) -> None:
        """Ends the run in progress, from another thread; this batch cannot be used again."""
        for switch in self._switches.values():
            switch.turn_off()

    def _select(self, group: _Group, places: Rows, indices: Rows) -> None:
        sources = group.sources[indices]
        same = np.array_equal(sources, group.sources)
        group.cache.select(indices, same_sources=same)
        if not same and group.source is not None:
            group.source = group.source.of(indices)
        group.places, group.sources = places, sources

    def _together(self, prompts: list[NDArray[np.int64]]) -> Iterator[Rows]:
        """Rows that are prefilled in one run: of one length, or each alone where attention writes in place."""
        if self._graph.shared:  # it takes several tokens behind a past for a single row only
            yield from (np.array([place]) for place in range(len(prompts)))
            return
        lengths = np.array([len(prompt) for prompt in prompts])
        for length in dict.fromkeys(lengths.tolist()):
            yield np.nonzero(lengths == length)[0]

    def _run(self, group: _Group, tokens: NDArray[np.int64]) -> Logits:
        switch = self._switches["prefill" if tokens.shape[1] > 1 else "step"]
        return self._graph.run(tokens, group.cache, switch, source=group.source)


def _joined(groups: list[_Group], sources: Source | None) -> _Group:
    places = np.concatenate([group.places for group in groups])
    cache = type(groups[0].cache).stacked([group.cache for group in groups])
    return _Group(places, places, cache, None if sources is None else sources.of(places))
