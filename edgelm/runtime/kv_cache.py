"""The key/value cache of one sequence: reserve, advance, rewind."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from edgelm.runtime.row_cache import RowCache
from edgelm.runtime.session import Binding, TensorInfo


class KVCache:
    """Keys and values of all layers, (1, kv_heads, capacity, head_size) each, and how many tokens are valid.

    Args:
        inputs: the session's inputs; see ``RowCache``.
        limit: tokens that the cache may ever hold.
    """

    def __init__(self, inputs: Mapping[str, TensorInfo], limit: int) -> None:
        self._row = RowCache(inputs, limit, slots=1)

    @property
    def length(self) -> int:
        """Tokens that are valid."""
        return int(self._row.lengths[0])

    @property
    def capacity(self) -> int:
        """Tokens for which memory is there."""
        return self._row.capacity

    @property
    def nbytes(self) -> int:
        """Bytes of all buffers."""
        return sum(array.nbytes for array in self._row.arrays.values())

    def reserve(self, tokens: int) -> None:
        """Makes room for just ``tokens`` in all; where that is more than ``capacity``, the buffers move.

        What bound them must bind them anew then, and should let go of them before, or they are there twice.

        Raises:
            MemoryLimitError: there is not enough memory; the cache is as it was.
        """
        self._row.reserve(1, tokens)

    def room_for(self, tokens: int) -> int:
        """What to reserve for ``tokens`` where more are to follow one by one."""
        return self._row.room_for(tokens)

    def advance(self, tokens: int) -> None:
        """The graph has written ``tokens`` more."""
        self._row.lengths += tokens

    def rewind(self, length: int) -> None:
        """Forgets what stands behind the first ``length`` tokens; their memory is used again."""
        if not 0 <= length <= self.length:
            raise ValueError(f"cannot rewind a cache of {self.length} tokens to {length}")
        self._row.lengths[0] = length

    def bind(self, binding: Binding) -> None:
        """Ties past and present of each layer to the same buffer, so that the graph appends in place."""
        self._row.bind(binding, 0, 1)

    def arrays(self) -> Iterator[tuple[str, NDArray[np.float32]]]:
        """Name and valid part of each tensor: (1, kv_heads, length, head_size)."""
        for name, array in self._row.arrays.items():
            yield name, array[:, :, : self.length]
