"""What a decoder must offer for several sequences at a time: batches of prompts, samples of one, and beams."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Ids = Sequence[int] | NDArray[np.int64]


class BatchDecoder(Protocol):
    """Rows with a KV cache each, which grow together, a token a step.

    Logits are (B, V) float32, a row each: a view of a buffer that the next call overwrites and the caller may change.
    """

    @property
    def vocab_size(self) -> int:
        """Width of the logits."""
        ...

    @property
    def context_length(self) -> int:
        """Tokens that a row may have."""
        ...

    def prefill(self, prompts: Sequence[Ids]) -> NDArray[np.float32]:
        """Begins a row for each prompt, of one token or more; returns the logits after the last of each."""
        ...

    def step(self, tokens: NDArray[np.int64]) -> NDArray[np.float32]:
        """Appends one token to each row, (B,)."""
        ...

    def select(self, rows: NDArray[np.int64]) -> None:
        """Row r becomes what row ``rows[r]`` was; rows may be repeated, reordered and left out."""
        ...
