"""One vector for each text out of the hidden states of its tokens."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_LEAST_NORM = 1e-12


def pool(hidden: NDArray[np.float32], lengths: NDArray[np.int64], mode: str) -> NDArray[np.float32]:
    """(B, H) float32 out of ``hidden`` (B, S, H), of whose rows only the first ``lengths`` (B,) tokens count.

    ``mode``: ``mean``, ``cls`` (the first token), ``last`` (the last one) or ``max``.
    """
    if mode == "cls":
        return hidden[:, 0].copy()
    if mode == "last":
        return hidden[np.arange(len(hidden)), lengths - 1]
    # Row by row: what lies behind a row's end need not even be a number.
    rows = [row[:length] for row, length in zip(hidden, lengths, strict=True)]
    return np.stack([row.max(axis=0) if mode == "max" else row.mean(axis=0) for row in rows])


def to_unit_length(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """The vectors (…, H) divided by their lengths; those of length 0 stay."""
    norms = np.linalg.norm(vectors, axis=-1, keepdims=True)
    unit: NDArray[np.float32] = vectors / np.maximum(norms, _LEAST_NORM)
    return unit
