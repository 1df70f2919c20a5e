"""Where the values of a model's heads stand in the heads of the graph, which attention wants of certain sizes.

GroupQueryAttention takes head sizes that are multiples of 8; where it applies rotary embeddings itself, of 16, with a
multiple of 8 rotated pairs. Other heads are widened with zeros, which change no dot product. A rotated pair is (i,
i + pairs), so that queries and keys get zeros behind each of the two halves; values get them at their ends.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_MULTIPLE = 8
_ROTARY_MULTIPLE = 16


@dataclass(frozen=True, slots=True)
class HeadLayout:
    """Sizes of a head, and its rotated pairs, in the model and in the graph (``padded``)."""

    size: int
    pairs: int
    padded_size: int
    padded_pairs: int

    @property
    def is_same(self) -> bool:
        """Whether the graph's heads are the model's own."""
        return self.size == self.padded_size and self.pairs == self.padded_pairs

    def widen_rotary(self, rows: NDArray[np.float32], heads: int) -> NDArray[np.float32]:
        """Rows of queries or keys: (heads · size, columns) → (heads · padded size, columns)."""
        index = np.arange(self.size)
        extra = self.padded_pairs - self.pairs
        return self._widen(rows, heads, index + extra * (index >= self.pairs) + extra * (index >= 2 * self.pairs))

    def widen(self, rows: NDArray[np.float32], heads: int) -> NDArray[np.float32]:
        """Rows of values: (heads · size, columns) → (heads · padded size, columns)."""
        return self._widen(rows, heads, np.arange(self.size))

    def _widen(self, rows: NDArray[np.float32], heads: int, places: NDArray[np.int64]) -> NDArray[np.float32]:
        if self.is_same:
            return rows
        widened = np.zeros((heads, self.padded_size, rows.shape[1]), np.float32)
        widened[:, places] = rows.reshape(heads, self.size, -1)
        return widened.reshape(heads * self.padded_size, -1)


def layout_of_heads(size: int, pairs: int = 0) -> HeadLayout:
    """The narrowest layout for heads of ``size`` values, of which ``2 · pairs`` are rotated."""
    padded_pairs = _rounded_up(pairs, _MULTIPLE)
    wider = size + 2 * (padded_pairs - pairs)
    return HeadLayout(size, pairs, _rounded_up(wider, _ROTARY_MULTIPLE if pairs else _MULTIPLE), padded_pairs)


def _rounded_up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple
