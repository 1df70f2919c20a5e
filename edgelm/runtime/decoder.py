"""Runs a decoder graph: token ids in, last-token logits out, with the KV cache in between.

Prefill takes many tokens in chunks, which bounds the memory of activations; a step takes one, and a check of guesses a
few, in memory that is bound already.
Knows nothing about text, sampling or stopping.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from edgelm.runtime.decoder_run import DecoderRun
from edgelm.runtime.embedding import EmbeddingTable
from edgelm.runtime.kv_cache import KVCache
from edgelm.runtime.session import Session, Switch, give_back_freed_memory
from edgelm.runtime.token_rows import Ids, Logits, check_room


class Decoder:
    """One sequence on one session.

    Args:
        session: a graph with the contract of ``bundle.decoder_contract``.
        context_length: tokens that the KV cache may hold.
        prefill_chunk: tokens computed in one run.
        embedding: turns ids into vectors, for a graph that takes those.

    Attributes:
        verifies: that ``verify`` takes several tokens.
    """

    verifies = True

    def __init__(
        self, session: Session, *, context_length: int, prefill_chunk: int, embedding: EmbeddingTable | None = None
    ) -> None:
        self.context_length = context_length
        self.vocab_size = int(session.outputs["logits"].shape[1])
        self.prefill_chunk = prefill_chunk
        self.cache = KVCache(session.inputs, context_length)
        self._session = session
        # A prompt's activations are many times a step's: they are not kept for the steps.
        self._switches = {"prefill": Switch(shrink=True), "step": Switch()}
        self._embedding = embedding
        self._logits = np.empty((1, self.vocab_size), np.float32)
        self._short_runs: dict[int, DecoderRun] = {}  # over so many tokens, with all their logits
        self._short_run(1)

    @property
    def length(self) -> int:
        """Tokens in the KV cache."""
        return self.cache.length

    def prefill(self, ids: Ids) -> Logits:
        """Appends tokens and returns the last one's logits, (V,) float32, which the next call may overwrite.

        Raises:
            ContextLengthError: they do not fit behind those already there.
            ValueError: there are none.
        """
        tokens = np.asarray(ids, np.int64)
        for chunk in self._chunks(tokens):
            if len(chunk) == 1:
                logits = self._compute(self._short_run(1), chunk, "step")
            else:
                logits = self._run(chunk, np.array([len(chunk) - 1]))
            if len(tokens) >= self.prefill_chunk:  # what chunks leave behind would add up
                give_back_freed_memory()
        last: Logits = logits[0]
        return last

    def step(self, token: int) -> Logits:
        """Appends one token and returns its logits, (V,) float32, which the next call may overwrite.

        Raises:
            ContextLengthError: the context window is full.
        """
        self._make_room(1)
        last: Logits = self._compute(self._short_run(1), np.array([token], np.int64), "step")[0]
        return last

    def verify(self, ids: Ids) -> Logits:
        """Appends a few tokens in one run and returns the logits of each, (S, V), which the next call may overwrite.

        Raises:
            ContextLengthError: they do not fit behind those already there.
        """
        self._make_room(len(ids))
        return self._compute(self._short_run(len(ids)), np.asarray(ids, np.int64), "step")

    def all_logits(self, ids: Ids) -> Iterator[Logits]:
        """Appends tokens and yields the logits of every one, chunk by chunk: (S, V) float32 each."""
        for chunk in self._chunks(np.asarray(ids, np.int64)):
            yield self._run(chunk, np.arange(len(chunk)))

    def rewind(self, length: int) -> None:
        """Forgets all but the first ``length`` tokens."""
        self.cache.rewind(length)

    def cancel(self) -> None:
        """Ends the run in progress, from another thread; this decoder cannot be used again."""
        for switch in self._switches.values():
            switch.turn_off()

    def reserve(self, tokens: int) -> None:
        """Allocates the cache for ``tokens`` in all now, instead of growing on the way."""
        tokens = min(tokens, self.context_length)
        if tokens > self.cache.capacity:
            self._short_runs.clear()  # they hold the buffers that the cache has now
            self.cache.reserve(tokens)

    def _chunks(self, ids: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
        if not len(ids):
            raise ValueError("there is no token to compute")
        self._make_room(len(ids))
        for start in range(0, len(ids), self.prefill_chunk):
            yield ids[start : start + self.prefill_chunk]

    def _make_room(self, tokens: int) -> None:
        needed = self.length + tokens
        check_room(needed, self.context_length)
        self.reserve(self.cache.room_for(needed))

    def _short_run(self, count: int) -> DecoderRun:
        """The run over ``count`` tokens, made when it is first needed; all of them share the memory of the logits."""
        run = self._short_runs.get(count)
        if run is None:
            if count > len(self._logits):
                self._short_runs.clear()
                self._logits = np.empty((count, self.vocab_size), np.float32)
            run = self._new_run(count, np.arange(count), self._logits[:count])
            self._short_runs[count] = run
        return run

    def _run(self, ids: NDArray[np.int64], wanted: NDArray[np.int64]) -> Logits:
        return self._compute(self._new_run(len(ids), wanted), ids, "prefill")

    def _new_run(self, count: int, wanted: NDArray[np.int64], logits: Logits | None = None) -> DecoderRun:
        run = DecoderRun(self._session, (1, count), wanted, self._embedding, logits)
        self.cache.bind(run.binding)
        return run

    def _compute(self, run: DecoderRun, ids: NDArray[np.int64], switch: str) -> Logits:
        past = np.array([self.length])
        run.set(ids[None], past, past + len(ids))
        self._session.run(run.binding, self._switches[switch])
        self.cache.advance(len(ids))
        return run.logits
