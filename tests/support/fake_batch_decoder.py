"""A batch decoder without a model: a row's logits follow from its length and its last two tokens.

The length is in it so that no two sequences have the same steps in another order, and thus the same probability.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

LENGTHS = 29


class TableDecoder:
    """Looks logits up in a table, (LENGTHS, V, V, V) float32: length, last token but one (or the only one), last, next.

    As the contract allows, all calls return one buffer, which the next one overwrites.
    """

    def __init__(self, table: NDArray[np.float32], context_length: int = 64) -> None:
        self.table = table
        self.vocab_size = table.shape[-1]
        self.context_length = context_length
        self.rows: list[list[int]] = []
        self.steps: list[int] = []
        self.selections: list[list[int]] = []
        self._buffer = np.empty((0, self.vocab_size), np.float32)

    def prefill(self, prompts: Sequence[Sequence[int] | NDArray[np.int64]]) -> NDArray[np.float32]:
        if self.rows or not all(len(prompt) for prompt in prompts):
            raise AssertionError("prefill of nothing, or of rows that are there")
        self.rows = [[int(token) for token in prompt] for prompt in prompts]
        return self._logits()

    def step(self, tokens: NDArray[np.int64]) -> NDArray[np.float32]:
        if tokens.shape != (len(self.rows),):
            raise AssertionError(f"{tokens.shape} tokens for {len(self.rows)} rows")
        self.steps.append(len(tokens))
        for row, token in zip(self.rows, tokens, strict=True):
            row.append(int(token))
        return self._logits()

    def select(self, rows: NDArray[np.int64]) -> None:
        self.selections.append(rows.tolist())
        self.rows = [list(self.rows[row]) for row in rows]

    def _logits(self) -> NDArray[np.float32]:
        if any(len(row) > self.context_length for row in self.rows):
            raise AssertionError(f"more than {self.context_length} tokens")
        self._buffer.fill(np.nan)  # whoever kept an earlier view sees it
        self._buffer = np.stack(
            [self.table[len(row) % LENGTHS, row[-2] if len(row) > 1 else row[-1], row[-1]] for row in self.rows]
        )
        return self._buffer


def table_decoder(vocab_size: int = 16, context_length: int = 64, seed: int = 0, spread: float = 2.0) -> TableDecoder:
    """A decoder with random logits."""
    return TableDecoder(random_table(vocab_size, seed, spread), context_length)


def random_table(vocab_size: int, seed: int, spread: float = 2.0) -> NDArray[np.float32]:
    table = np.random.default_rng(seed).normal(0.0, spread, (LENGTHS, vocab_size, vocab_size, vocab_size))
    return table.astype(np.float32)


class SingleRow:
    """One row of a batch decoder as the generation loop takes a decoder."""

    def __init__(self, decoder: TableDecoder) -> None:
        self._decoder = decoder
        self.vocab_size = decoder.vocab_size
        self.context_length = decoder.context_length

    @property
    def length(self) -> int:
        return len(self._decoder.rows[0]) if self._decoder.rows else 0

    def prefill(self, ids: Sequence[int] | NDArray[np.int64]) -> NDArray[np.float32]:
        return self._decoder.prefill([ids])[0]

    def step(self, token: int) -> NDArray[np.float32]:
        return self._decoder.step(np.array([token]))[0]
