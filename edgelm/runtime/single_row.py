"""One row of a batch decoder, as a decoder of one sequence."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from edgelm.runtime.token_rows import Ids, Logits


class Rows(Protocol):
    """What a batch decoder must have to be run here: ``generation.batch.BatchDecoder``, and means to stop it."""

    @property
    def vocab_size(self) -> int:
        """Width of the logits."""
        ...

    @property
    def context_length(self) -> int:
        """Tokens that a row may have."""
        ...

    def reserve(self, rows: int, tokens: int) -> None:
        """Has memory allocated for so many rows of ``tokens`` when they begin."""
        ...

    def prefill(self, prompts: Sequence[Ids]) -> Logits:
        """Begins the rows."""
        ...

    def step(self, tokens: NDArray[np.int64]) -> Logits:
        """Appends a token to each row."""
        ...

    def select(self, rows: NDArray[np.int64]) -> None:
        """Chooses rows anew."""
        ...

    def cancel(self) -> None:
        """Ends the run in progress, from another thread."""
        ...


class SingleRow:
    """The sequence; implements ``generation.loop.Decoder``, but for appending to what has begun.

    Attributes:
        length: tokens that the decoder has read.
    """

    def __init__(self, rows: Rows) -> None:
        self._rows = rows
        self.vocab_size = rows.vocab_size
        self.context_length = rows.context_length
        self.length = 0

    def prefill(self, ids: Ids) -> Logits:
        """Begins the sequence; returns the last token's logits, (V,)."""
        logits: Logits = self._rows.prefill([ids])[0]
        self.length = len(ids)
        return logits

    def step(self, token: int) -> Logits:
        """Appends one token; returns its logits, (V,)."""
        logits: Logits = self._rows.step(np.array([token], np.int64))[0]
        self.length += 1
        return logits
