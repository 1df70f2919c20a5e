"""Which texts run together: of like lengths, so that little is padded, and so many as a budget of tokens allows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def pack(lengths: Sequence[int], batch_tokens: int) -> list[NDArray[np.int64]]:
    """Sorts texts by length, longest first, and cuts them into batches.

    Args:
        lengths: tokens of each text.
        batch_tokens: most tokens of a batch, padding included; a text that is longer runs alone.

    Returns:
        The indices of each batch; together they are every index once.
    """
    order = np.argsort(-np.asarray(lengths, np.int64), kind="stable")
    batches = []
    start = 0
    while start < len(order):
        rows = max(1, batch_tokens // max(1, lengths[order[start]]))
        batches.append(order[start : start + rows])
        start += rows
    return batches
