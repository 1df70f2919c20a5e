"""Rows of token ids, as runs take them, and how long they may become."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from edgelm.errors import ContextLengthError

Ids = Sequence[int] | NDArray[np.int64]
Logits = NDArray[np.float32]


def padded(rows: Sequence[Ids], fill: int) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Rows of any lengths side by side.

    Returns:
        (B, S) the rows, ``fill`` on the right of shorter ones; and which of these places hold a token.
    """
    lengths = np.fromiter(map(len, rows), np.int64, len(rows))
    mask = np.arange(lengths.max()) < lengths[:, None]
    ids = np.full(mask.shape, fill, np.int64)
    ids[mask] = np.fromiter(chain.from_iterable(rows), np.int64)
    return ids, mask


def check_room(tokens: int, context_length: int) -> None:
    """Refuses a row that would come to have more tokens than the context window.

    Raises:
        ContextLengthError: it would.
    """
    if tokens > context_length:
        raise ContextLengthError(f"{tokens} tokens do not fit into a context window of {context_length}")
