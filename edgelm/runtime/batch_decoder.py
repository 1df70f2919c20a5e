"""Runs a decoder graph with a key/value cache for several rows at a time: of a decoder-only model, or an
encoder-decoder's.

Rows of like lengths are prefilled together, padded on the right; a long one alone, in chunks, straight into its slot.
Rows may come to lie in any slot: logits are asked for in the order of the rows, so choosing rows anew moves little.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from edgelm.errors import ContextLengthError
from edgelm.runtime.embedding import EmbeddingTable
from edgelm.runtime.row_cache import RowCache
from edgelm.runtime.row_slots import plan_selection
from edgelm.runtime.session import Binding, Session, Switch, Tensor, give_back_freed_memory
from edgelm.runtime.source_rows import SourceRows

Ids = Sequence[int] | NDArray[np.int64]
Logits = NDArray[np.float32]
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
        self._step: _Run | None = None  # for the rows as they are; None: to be made anew

    @property
    def length(self) -> int:
        """Tokens in the longest row."""
        return int(self.cache.lengths[self._slots].max(initial=0))

    def reserve(self, rows: int, tokens: int) -> None:
        """Has memory allocated for so many rows of ``tokens`` when they begin, instead of growing on the way."""
        self._room = (rows, min(tokens, self.context_length))

    def prefill(self, prompts: Sequence[Ids]) -> Logits:
        """Begins a row for each prompt; returns the logits after the last token of each, (B, V).

        Raises:
            ContextLengthError: a prompt does not fit into the context window.
        """
        rows = [np.asarray(prompt, np.int64) for prompt in prompts]
        longest = max(len(row) for row in rows)
        self._check_room(longest)
        if self._encode is not None:
            self._source = self._encode()
        self.cache.reserve(max(len(rows), self._room[0]), max(longest, self._room[1]))
        self.cache.lengths[:] = 0
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
        self._check_room(longest)
        if self.cache.grow(longest):
            self._step = None
        if self._step is None:
            self._step = self._run(0, len(self._slots), 1, self._slots)
        in_slots = np.empty_like(tokens)
        in_slots[self._slots] = tokens
        past = self.cache.lengths[: len(tokens)]
        self._step.set(in_slots[:, None], past, past + 1)
        self._session.run(self._step.binding, self._switches["step"])
        past += 1
        return self._step.logits.array

    def select(self, rows: NDArray[np.int64]) -> None:
        """Row r becomes what row ``rows[r]`` was. Rows that go on stay in place; copied are only further copies of
        one row, and those that close the gaps others leave.
        """
        if len(rows) == len(self._slots) and np.array_equal(rows, np.arange(len(rows))):
            return
        plan = plan_selection(self._slots, rows, None if self._source is None else self._source.sources)
        moved = self.cache.reserve(len(rows), self.cache.capacity)
        moved |= self._source is not None and self._source.reserve(len(rows))
        for source, target in plan.copies:
            self.cache.copy(source, target)
            if self._source is not None:
                self._source.copy(source, target)
        if self._step is not None and (moved or len(rows) != len(self._slots)):
            self._step = None
        self._slots = plan.slots
        if self._step is not None:
            self._step.want(plan.slots)

    def cancel(self) -> None:
        """Ends the run in progress, from another thread; this decoder cannot be used again."""
        for switch in self._switches.values():
            switch.turn_off()

    def _check_room(self, tokens: int) -> None:
        if tokens > self.context_length:
            raise ContextLengthError(f"{tokens} tokens do not fit into a context window of {self.context_length}")

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
        run = self._run(first, count, width, np.arange(count) * width + lengths - 1)
        past = self.cache.lengths[first : first + count]
        run.set(tokens, past, past + lengths)
        self._session.run(run.binding, self._switches["prefill"])
        if tokens.size >= self._prefill_chunk // 2:  # what runs leave behind would add up
            give_back_freed_memory()
        past += lengths
        logits[:] = run.logits.array

    def _run(self, first: int, count: int, width: int, wanted: NDArray[np.int64]) -> _Run:
        run = _Run(self._session, (count, width), wanted, self.vocab_size, self._embedding)
        run.keep(self.cache.bind(run.binding, first, count))
        if self._source is not None:
            run.keep(self._source.bind(run.binding, first, count))
        return run


class _Run:
    """The binding of a run of (B, S) new tokens; its small inputs are written in place.

    ``wanted``: which of the B·S tokens' logits the run gives, in that order.
    """

    def __init__(
        self,
        session: Session,
        shape: tuple[int, int],
        wanted: NDArray[np.int64],
        vocab_size: int,
        embedding: EmbeddingTable | None,
    ) -> None:
        self.binding: Binding = session.binding()
        self._embedding = embedding
        self._tokens = np.zeros(shape if embedding is None else (*shape, embedding.columns), _dtype(embedding))
        self._positions = np.zeros(shape, np.int64)
        self._inputs = {
            "input_ids" if embedding is None else "inputs_embeds": Tensor(self._tokens),
            "seqlens_k": Tensor(np.zeros(shape[0], np.int32)),
            "total_sequence_length": Tensor(np.zeros((), np.int32)),
            "logit_index": Tensor(wanted.copy()),
        }
        if "position_ids" in session.inputs:
            self._inputs["position_ids"] = Tensor(self._positions)
        for name, tensor in self._inputs.items():
            self.binding.input(name, tensor)
        self.logits = Tensor(np.empty((len(wanted), vocab_size), np.float32))
        self.binding.output("logits", self.logits)
        self._kept: list[Tensor] = []

    def keep(self, tensors: list[Tensor]) -> None:
        """Holds what is bound besides."""
        self._kept += tensors

    def want(self, wanted: NDArray[np.int64]) -> None:
        """Gives the logits of other tokens, as many as before."""
        self._inputs["logit_index"].array[:] = wanted

    def set(self, tokens: NDArray[np.int64], past: NDArray[np.int64], valid: NDArray[np.int64]) -> None:
        """The tokens (B, S), how many stand before them in each row, and how many are valid with them."""
        if self._embedding is None:
            self._tokens[:] = tokens
        else:
            for row, ids in enumerate(tokens):
                self._embedding.lookup(ids, self._tokens[row])
        # What pads a row has the position of its last token: one that exists.
        np.minimum(past[:, None] + np.arange(tokens.shape[1]), valid[:, None] - 1, out=self._positions)
        self._inputs["seqlens_k"].array[:] = valid - 1
        self._inputs["total_sequence_length"].array[...] = valid.max()


def _dtype(embedding: EmbeddingTable | None) -> type[np.int64] | type[np.float32]:
    return np.int64 if embedding is None else np.float32


def _groups(lengths: list[int], most_tokens: int) -> Iterator[tuple[int, int]]:
    """(First row, count) of the rows that are prefilled together: neighbours that fit into one run with padding."""
    first = 0
    for row in range(1, len(lengths) + 1):
        if row == len(lengths) or (row - first + 1) * max(lengths[first : row + 1]) > most_tokens:
            yield first, row - first
            first = row
