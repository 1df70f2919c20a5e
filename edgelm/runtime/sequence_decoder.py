"""What the runtime asks of a decoder of one sequence, ours or of graphs made by others; see ``decoder.Decoder``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.int64]


class Cache(Protocol):
    """What a decoder remembers of its tokens."""

    @property
    def capacity(self) -> int:
        """Tokens for which memory is there."""
        ...


class SequenceDecoder(Protocol):
    """A decoder of one sequence."""

    context_length: int
    vocab_size: int

    @property
    def cache(self) -> Cache:
        """What it remembers."""
        ...

    @property
    def length(self) -> int:
        """Tokens in the cache."""
        ...

    @property
    def verifies(self) -> bool:
        """Whether ``verify`` takes several tokens."""
        ...

    def verify(self, ids: Sequence[int] | Ids) -> NDArray[np.float32]:
        """Appends a few tokens in one run; returns the logits of every one."""
        ...

    def prefill(self, ids: Sequence[int] | Ids) -> NDArray[np.float32]:
        """Appends tokens; returns the last one's logits."""
        ...

    def step(self, token: int) -> NDArray[np.float32]:
        """Appends one token; returns its logits."""
        ...

    def all_logits(self, ids: Sequence[int] | Ids) -> Iterator[NDArray[np.float32]]:
        """Appends tokens; yields the logits of every one."""
        ...

    def rewind(self, length: int) -> None:
        """Forgets all but the first tokens."""
        ...

    def reserve(self, tokens: int) -> None:
        """Allocates the cache now."""
        ...

    def cancel(self) -> None:
        """Ends the run in progress, from another thread."""
        ...
