"""Runs a decoder graph with a key/value cache for several rows at a time: of a decoder-only model, or an
encoder-decoder's.

Rows of like lengths are prefilled together, padded on the right; a long one alone, in chunks, straight into its slot.
Rows may come to lie in any slot: logits are asked for in the order of the rows, so choosing rows anew moves little.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from edgelm.runtime.decoder_run import DecoderRun
from edgelm.runtime.embedding import EmbeddingTable
from edgelm.runtime.row_cache import RowCache
from edgelm.runtime.row_slots import plan_selection
from edgelm.runtime.session import Session, Switch, give_back_freed_memory
from edgelm.runtime.source_rows import SourceRows
from edgelm.runtime.token_rows import Ids, Logits, check_room

Encode = Callable[[], SourceRows]


class BatchDecoder:
    """Rows on one session; implements ``generation.batch.BatchDecoder``.

    Args:
        session: a graph with the contract of a decoder with a cache (see ``bundle.decoder_contract``).
        context_length: tokens that a row may have.
        prefill_chunk: tokens computed in one run, of all rows together.
        embedding: turns ids into vectors, for a graph that takes those.
        encode: computes what the decoder's cross-attention reads; called once, when the rows begin.
        encoding: ends that.
    """

    def __init__(
        self,
        session: Session,
        *,
        context_length: int,
        prefill_chunk: int,
        embedding: EmbeddingTable | None = None,
        encode: Encode | None = None,
        encoding: Switch | None = None,
    ) -> None:
        self.context_length = context_length
        self.vocab_size = int(session.outputs["logits"].shape[1])
        self.cache = RowCache(session.inputs, context_length)
        self._session = session
        self._prefill_chunk = prefill_chunk
        self._embedding = embedding
        self._encode = encode
        self._source: SourceRows | None = None
        self._slots = np.zeros(0, np.int64)
        self._room = (0, 0)
        self._switches = {"encode": encoding or Switch(), "prefill": Switch(shrink=True), "step": Switch()}
        self._step: DecoderRun | None = None  # for the rows as they are; None: to be made anew

    @property
    def length(self) -> int:
        """Tokens in the longest row."""
        return int(self.cache.lengths[self._slots].max(initial=0))

    def reserve(self, rows: int, tokens: int) -> None:
        """Has memory allocated for so many rows of ``tokens`` when they begin, instead of growing on the way."""
        self._room = (rows, min(tokens, self.context_length))

    def prefill(self, prompts: Sequence[Ids]) -> Logits:
        """Begins a row for each prompt, of one token or more; returns the logits after the last of each, (B, V).

        Raises:
            ContextLengthError: a prompt does not fit into the context window.
        """
        rows = [np.asarray(prompt, np.int64) for prompt in prompts]
        longest = max(len(row) for row in rows)
        check_room(longest, self.context_length)
        if self._encode is not None:
            self._source = self._encode()
        self.cache.lengths[:] = 0
        self._reserve(max(len(rows), self._room[0]), max(longest, self._room[1]))
        self._slots = np.arange(len(rows))
        self._step = None
        logits = np.empty((len(rows), self.vocab_size), np.float32)
        for first, count in _groups([len(row) for row in rows], self._prefill_chunk):
            self._begin(rows[first : first + count], first, logits[first : first + count])
        return logits

    def step(self, tokens: NDArray[np.int64]) -> Logits:
        """Appends one token to each row, (B,); returns the logits, (B, V), a view that the next call overwrites.

        Raises:
            ContextLengthError: a row's context window is full.
        """
        longest = self.length + 1
        check_room(longest, self.context_length)
        self._reserve(self.cache.slots, self.cache.room_for(longest))
        if self._step is None:
            self._step = self._new_run(0, (len(self._slots), 1), self._slots)
        in_slots = np.empty_like(tokens)
        in_slots[self._slots] = tokens
        past = self.cache.lengths[: len(tokens)]
        self._step.set(in_slots[:, None], past, past + 1)
        self._session.run(self._step.binding, self._switches["step"])
        past += 1
        return self._step.logits

    def select(self, rows: NDArray[np.int64]) -> None:
        """Row r becomes what row ``rows[r]`` was. Rows that go on stay in place; copied are only further copies of
        one row, and those that close the gaps others leave.
        """
        if len(rows) == len(self._slots) and np.array_equal(rows, np.arange(len(rows))):
            return
        plan = plan_selection(self._slots, rows, None if self._source is None else self._source.sources)
        if len(rows) != len(self._slots):
            self._step = None
        self._reserve(len(rows), self.cache.capacity)
        if self._source is not None:
            self._source.reserve(len(rows))
        for source, target in plan.copies:
            self.cache.copy(source, target)
            if self._source is not None:
                self._source.copy(source, target)
        self.cache.lengths[len(rows) :] = 0  # of rows that have left nothing is to be moved any more
        self._slots = plan.slots
        if self._step is not None:
            self._step.want(plan.slots)

    def cancel(self) -> None:
        """Ends the run in progress, from another thread; this decoder cannot be used again."""
        for switch in self._switches.values():
            switch.turn_off()

    def _reserve(self, slots: int, tokens: int) -> None:
        if self.cache.moves(slots, tokens):
            self._step = None  # it holds the buffers that the cache has now
            self.cache.reserve(slots, tokens)

    def _begin(self, rows: list[NDArray[np.int64]], first: int, logits: Logits) -> None:
        """Computes rows, or one row in chunks, into the slots from ``first`` on."""
        lengths = np.array([len(row) for row in rows])
        width = int(lengths.max())
        if len(rows) > 1 or width <= self._prefill_chunk:
            padded = np.zeros((len(rows), width), np.int64)
            padded[np.arange(width) < lengths[:, None]] = np.concatenate(rows)
            self._append(padded, lengths, first, logits)
            return
        for start in range(0, width, self._prefill_chunk):
            chunk = rows[0][None, start : start + self._prefill_chunk]
            self._append(chunk, np.array([chunk.shape[1]]), first, logits)

    def _append(self, tokens: NDArray[np.int64], lengths: NDArray[np.int64], first: int, logits: Logits) -> None:
        count, width = tokens.shape
        run = self._new_run(first, (count, width), np.arange(count) * width + lengths - 1)
        past = self.cache.lengths[first : first + count]
        run.set(tokens, past, past + lengths)
        self._session.run(run.binding, self._switches["prefill"])
        if tokens.size >= self._prefill_chunk // 2:  # what runs leave behind would add up
            give_back_freed_memory()
        past += lengths
        logits[:] = run.logits

    def _new_run(self, first: int, shape: tuple[int, int], wanted: NDArray[np.int64]) -> DecoderRun:
        run = DecoderRun(self._session, shape, wanted, self._embedding)
        self.cache.bind(run.binding, first, shape[0])
        if self._source is not None:
            self._source.bind(run.binding, first, shape[0])
        return run


def _groups(lengths: list[int], most_tokens: int) -> Iterator[tuple[int, int]]:
    """(First row, count) of the rows that are prefilled together: neighbours that fit into one run with padding."""
    first = 0
    for row in range(1, len(lengths) + 1):
        if row == len(lengths) or (row - first + 1) * max(lengths[first : row + 1]) > most_tokens:
            yield first, row - first
            first = row
