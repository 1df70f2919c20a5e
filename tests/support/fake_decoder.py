"""A decoder without a model: the next token's logits depend on the last token alone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


class BigramDecoder:
    """Looks up a table, (V, V) float32, and keeps what a real decoder keeps and what it was asked.

    As the contract allows, all calls return one buffer, and the cache refuses more than its context window.
    """

    def __init__(self, table: NDArray[np.float32], context_length: int = 64, cached: Sequence[int] = ()) -> None:
        self.table = table
        self.vocab_size = table.shape[1]
        self.context_length = context_length
        self.cache: list[int] = list(cached)
        self.prefills: list[list[int]] = []
        self.steps: list[int] = []
        self.verified: list[list[int]] = []
        self._buffer = np.empty(self.vocab_size, np.float32)

    @property
    def length(self) -> int:
        return len(self.cache)

    def prefill(self, ids: Sequence[int] | NDArray[np.int64]) -> NDArray[np.float32]:
        tokens = [int(token) for token in ids]
        if not tokens:
            raise AssertionError("prefill of nothing")
        self.prefills.append(tokens)
        return self._append(tokens)

    def step(self, token: int) -> NDArray[np.float32]:
        self.steps.append(token)
        return self._append([token])

    def verify(self, ids: Sequence[int] | NDArray[np.int64]) -> NDArray[np.float32]:
        tokens = [int(token) for token in ids]
        self.verified.append(tokens)
        self._append(tokens)
        return self.table[tokens]

    def rewind(self, length: int) -> None:
        if not 0 <= length <= self.length:
            raise AssertionError(f"a rewind of {self.length} tokens to {length}")
        del self.cache[length:]

    def _append(self, tokens: list[int]) -> NDArray[np.float32]:
        self.cache += tokens
        if len(self.cache) > self.context_length:
            raise AssertionError(f"{len(self.cache)} tokens in a context of {self.context_length}")
        self._buffer[:] = self.table[tokens[-1]]
        return self._buffer


def counting_decoder(vocab_size: int = 16, context_length: int = 64) -> BigramDecoder:
    """After token t, the likeliest is t + 1 (after the last, 0)."""
    table = np.zeros((vocab_size, vocab_size), np.float32)
    table[np.arange(vocab_size), (np.arange(vocab_size) + 1) % vocab_size] = 5.0
    return BigramDecoder(table, context_length)


def random_decoder(vocab_size: int = 16, context_length: int = 64, seed: int = 0) -> BigramDecoder:
    """Every token may follow every other, with fixed random logits."""
    table = np.random.default_rng(seed).normal(0.0, 2.0, (vocab_size, vocab_size))
    return BigramDecoder(table.astype(np.float32), context_length)
