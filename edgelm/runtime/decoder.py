"""Runs a decoder graph: token ids in, last-token logits out, with the KV cache in between.

Prefill takes many tokens in chunks, which bounds the memory of activations; a step takes one and allocates nothing.
Knows nothing about text, sampling or stopping.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from edgelm.errors import ContextLengthError
from edgelm.runtime.embedding import EmbeddingTable
from edgelm.runtime.kv_cache import KVCache
from edgelm.runtime.session import Binding, Session, Switch, Tensor, give_back_freed_memory

Ids = Sequence[int] | NDArray[np.int64]


class Decoder:
    """One sequence on one session.

    Args:
        session: a graph with the decoder contract (``input_ids`` or ``inputs_embeds``, ``position_ids`` if it takes
            them, ``seqlens_k``, ``total_sequence_length``, ``logit_index``, ``past_key_values.*`` → ``logits``,
            ``present.*``).
        context_length: tokens that the KV cache may hold.
        prefill_chunk: tokens computed in one run.
        embedding: turns ids into vectors, for a graph that takes those.
    """

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
        row = np.zeros((1, self.vocab_size), np.float32)
        self._logits = Tensor(row)
        self._last: NDArray[np.float32] = row[0]
        self._embedding = embedding
        self._takes_positions = "position_ids" in session.inputs
        self._one = self._inputs(1)
        self._step_binding = session.binding()
        self._one.bind(self._step_binding)
        self._step_binding.output("logits", self._logits)
        self.cache.bind(self._step_binding)

    @property
    def length(self) -> int:
        """Tokens in the KV cache."""
        return self.cache.length

    def prefill(self, ids: Ids) -> NDArray[np.float32]:
        """Appends tokens and returns the last one's logits, (V,) float32, a view that the next call overwrites.

        Raises:
            ContextLengthError: they do not fit behind those already there.
        """
        tokens = np.asarray(ids, np.int64)
        for chunk in self._chunks(tokens):
            if len(chunk) == 1:
                self._run_one(int(chunk[0]))
            else:
                self._run(chunk, np.array([len(chunk) - 1], np.int64), self._logits)
            if len(tokens) >= self.prefill_chunk:  # what chunks leave behind would add up
                give_back_freed_memory()
        return self._last

    def step(self, token: int) -> NDArray[np.float32]:
        """Appends one token and returns its logits, (V,) float32, a view that the next call overwrites.

        Raises:
            ContextLengthError: the context window is full.
        """
        self._make_room(1)
        self._run_one(token)
        return self._last

    def all_logits(self, ids: Ids) -> Iterator[NDArray[np.float32]]:
        """Appends tokens and yields the logits of every one, chunk by chunk: (S, V) float32 each."""
        for chunk in self._chunks(np.asarray(ids, np.int64)):
            logits = Tensor(np.empty((len(chunk), self.vocab_size), np.float32))
            self._run(chunk, np.arange(len(chunk), dtype=np.int64), logits)
            yield logits.array

    def rewind(self, length: int) -> None:
        """Forgets all but the first ``length`` tokens."""
        self.cache.rewind(length)

    def cancel(self) -> None:
        """Ends the run in progress, from another thread; this decoder cannot be used again."""
        for switch in self._switches.values():
            switch.turn_off()

    def reserve(self, tokens: int) -> None:
        """Allocates the cache for ``tokens`` in all now, instead of growing on the way."""
        if self.cache.reserve(min(tokens, self.context_length)):
            self.cache.bind(self._step_binding)

    def _chunks(self, ids: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
        if not len(ids):
            raise ValueError("there is no token to compute")
        self._make_room(len(ids))
        for start in range(0, len(ids), self.prefill_chunk):
            yield ids[start : start + self.prefill_chunk]

    def _make_room(self, tokens: int) -> None:
        needed = self.cache.length + tokens
        if needed > self.context_length:
            raise ContextLengthError(f"{needed} tokens do not fit into a context window of {self.context_length}")
        if self.cache.grow(needed):
            self.cache.bind(self._step_binding)

    def _run_one(self, token: int) -> None:
        self._one.set([token], self.cache.length)
        self._session.run(self._step_binding, self._switches["step"])
        self.cache.advance(1)

    def _run(self, ids: NDArray[np.int64], wanted: NDArray[np.int64], logits: Tensor) -> None:
        binding = self._session.binding()
        inputs = self._inputs(len(ids), wanted)
        inputs.set(ids, self.cache.length)
        inputs.bind(binding)
        binding.output("logits", logits)
        self.cache.bind(binding)
        self._session.run(binding, self._switches["prefill"])
        self.cache.advance(len(ids))

    def _inputs(self, count: int, wanted: NDArray[np.int64] | None = None) -> _Inputs:
        return _Inputs(count, self._embedding, wanted, takes_positions=self._takes_positions)


class _Inputs:
    """The small inputs of a run of ``count`` tokens, written in place."""

    def __init__(
        self,
        count: int,
        embedding: EmbeddingTable | None,
        wanted: NDArray[np.int64] | None,
        *,
        takes_positions: bool,
    ) -> None:
        self.count = count
        self._embedding = embedding
        self._tokens = (
            np.zeros((1, count), np.int64) if embedding is None else np.zeros((1, count, embedding.columns), np.float32)
        )
        self._tensors = {
            "input_ids" if embedding is None else "inputs_embeds": Tensor(self._tokens),
            "seqlens_k": Tensor(np.zeros(1, np.int32)),
            "total_sequence_length": Tensor(np.zeros((), np.int32)),
            "logit_index": Tensor(np.zeros(1, np.int64) if wanted is None else wanted),
        }
        self._positions = np.zeros((1, count), np.int64)
        if takes_positions:
            self._tensors["position_ids"] = Tensor(self._positions)

    def set(self, ids: Ids, past: int) -> None:
        """The tokens, and how many stand before them in the cache."""
        if self._embedding is None:
            self._tokens[0] = ids
        else:
            self._embedding.lookup(ids, self._tokens[0])
        self._positions[0] = np.arange(past, past + self.count)
        self._tensors["seqlens_k"].array[0] = past + self.count - 1
        self._tensors["total_sequence_length"].array[...] = past + self.count

    def bind(self, binding: Binding) -> None:
        for name, tensor in self._tensors.items():
            binding.input(name, tensor)
