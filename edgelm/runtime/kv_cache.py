"""The key/value cache of one sequence: reserve, advance, rewind, copy, drop."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from numpy.typing import NDArray

from edgelm.config import KVCacheType
from edgelm.runtime.row_cache import RowCache
from edgelm.runtime.session import Binding, TensorInfo


class KVCache:
    """Keys and values of all layers, (1, kv_heads, capacity, head_size) each, and how many tokens are valid.

    They are float32, or int8 where the graph is one of ``int8_cache``.

    Args:
        inputs: the session's inputs; see ``RowCache``.
        limit: tokens that the cache may ever hold.

    Attributes:
        dropped: tokens of the sequence, behind its first, that were taken out; see ``drop``.
    """

    def __init__(self, inputs: Mapping[str, TensorInfo], limit: int) -> None:
        self._row = RowCache(inputs, limit, slots=1)
        self.dropped = 0
        self._before_gap = 0

    @property
    def length(self) -> int:
        """Tokens that are valid."""
        return int(self._row.lengths[0])

    @property
    def capacity(self) -> int:
        """Tokens for which memory is there."""
        return self._row.capacity

    @property
    def kind(self) -> KVCacheType:
        """The type of the values."""
        return "int8" if any(array.dtype.kind == "i" for array in self._row.arrays.values()) else "f32"

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
        if length <= self._before_gap:
            self.dropped = 0

    def take(self, source: KVCache, length: int, *, keep_source: bool) -> None:
        """Becomes the first ``length`` tokens of another cache of the same graph; there must be room for them.

        Without ``keep_source`` that one's buffers go one by one, and it is of no use any more.
        """
        if not length <= min(self.capacity, source.length):
            raise ValueError(f"cannot take {length} of {source.length} tokens into room for {self.capacity}")
        for name, array in self._row.arrays.items():
            from_arrays = source._row.arrays
            other = from_arrays[name] if keep_source else from_arrays.pop(name)
            array[:, :, :length] = other[:, :, :length]
        self.restore(length, source.dropped if length > source._before_gap else 0, source._before_gap)

    def restore(self, length: int, dropped: int, before_gap: int) -> None:
        """``length`` tokens were written into ``buffers``; ``dropped`` had been taken out behind ``before_gap``."""
        self._row.lengths[0] = length
        self.dropped, self._before_gap = dropped, before_gap

    def drop(self, first: int, count: int, turn_back: Callable[[str, NDArray[Any]], None]) -> None:
        """Takes ``count`` tokens out behind the first ``first``; what stood behind them moves up.

        ``turn_back``: told of each moved tensor by its input's name, (1, kv_heads, tokens, head_size), which it may
        change: keys hold their positions.
        """
        end = self.length
        for name, array in self._row.arrays.items():
            array[:, :, first : end - count] = array[:, :, first + count : end]
            turn_back(name, array[:, :, first : end - count])
        self.restore(end - count, self.dropped + count, first)

    def bind(self, binding: Binding) -> None:
        """Ties past and present of each layer to the same buffer, so that the graph appends in place."""
        self._row.bind(binding, 0, 1)

    def arrays(self) -> Iterator[tuple[str, NDArray[Any]]]:
        """Name and valid part of each tensor: (1, kv_heads, length, head_size)."""
        return self.buffers(self.length)

    def buffers(self, length: int) -> Iterator[tuple[str, NDArray[Any]]]:
        """Name and first ``length`` tokens of each tensor, whether they are valid or to be written."""
        for name, array in self._row.arrays.items():
            yield name, array[:, :, :length]
