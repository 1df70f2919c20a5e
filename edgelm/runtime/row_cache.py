"""The key/value cache: a slot a row, each with a length of its own, written in place by the graph."""

from __future__ import annotations

import math
import mmap
import sys
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgelm.errors import MemoryLimitError
from edgelm.runtime.session import Binding, Tensor, TensorInfo

# Growing in steps keeps copies rare and leaves at most this many tokens of the cache unused.
GROWTH = 256
_PAST, _PRESENT = "past_key_values.", "present."


class RowCache:
    """Keys and values of all layers, (slots, kv_heads, capacity, head_size) each, of the type that the graph takes.

    Args:
        inputs: the session's inputs; names and shapes are the graph's own, and every ``past_key_values.X`` has its
            output ``present.X``.
        limit: tokens that a row may ever have.

    Attributes:
        lengths: (slots,) int64, valid tokens of each slot.
        arrays: the buffers by the names of their inputs.
        capacity: tokens for which a slot has memory.
    """

    def __init__(self, inputs: Mapping[str, TensorInfo], limit: int, *, slots: int = 0) -> None:
        self.limit = limit
        self.capacity = 0
        self.lengths = np.zeros(slots, np.int64)
        self._infos = {name: info for name, info in inputs.items() if name.startswith(_PAST)}
        self.arrays = self._allocated(slots, 0)

    @property
    def slots(self) -> int:
        """Slots for which there is memory."""
        return len(self.lengths)

    def reserve(self, slots: int, tokens: int) -> None:
        """Makes room for ``tokens`` in each of ``slots``; what bound the buffers must then bind them anew.

        Raises:
            MemoryLimitError: there is not enough memory; the cache is as it was.
        """
        if not self.moves(slots, tokens):
            return
        slots, capacity = max(slots, self.slots), max(tokens, self.capacity)
        larger = self._allocated(slots, capacity)
        for name, array in larger.items():  # one by one: each old buffer goes before the next is copied
            old = self.arrays.pop(name)
            for slot, length in enumerate(self.lengths.tolist()):
                array[slot, :, :length] = old[slot, :, :length]
        self.arrays = larger
        self.capacity = capacity
        self.lengths = np.concatenate((self.lengths, np.zeros(slots - self.slots, np.int64)))

    def moves(self, slots: int, tokens: int) -> bool:
        """Whether ``reserve`` would move the buffers. Who holds them should let go first, or they are there twice."""
        return slots > self.slots or tokens > self.capacity

    def room_for(self, tokens: int) -> int:
        """What to reserve for rows that grow token by token: some more than ``tokens``, so that it is rare."""
        return tokens if tokens <= self.capacity else min(self.limit, -(-tokens // GROWTH) * GROWTH)

    def copy(self, source: int, target: int) -> None:
        """Makes slot ``target`` what slot ``source`` is; only valid tokens are copied."""
        length = int(self.lengths[source])
        for array in self.arrays.values():
            array[target, :, :length] = array[source, :, :length]
        self.lengths[target] = length

    def bind(self, binding: Binding, first: int, count: int) -> None:
        """Ties past and present of ``count`` slots to the same memory, so that the graph appends in place."""
        for name, array in self.arrays.items():
            tensor = Tensor(array[first : first + count])
            binding.input(name, tensor)
            binding.output(_PRESENT + name.removeprefix(_PAST), tensor)

    def _allocated(self, slots: int, capacity: int) -> dict[str, NDArray[Any]]:
        return {
            name: _zeros((slots, int(info.shape[1]), capacity, int(info.shape[3])), info.dtype)
            for name, info in self._infos.items()
        }


def _zeros(shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
    """An array in memory of its own, whose pages are only taken when they are written, and go back at once."""
    count = math.prod(shape)
    length = max(count * dtype.itemsize, 1)
    try:
        if sys.platform == "win32":
            memory = mmap.mmap(-1, length)
        else:
            memory = mmap.mmap(-1, length, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except (OSError, OverflowError):
        raise MemoryLimitError(f"not enough memory for a KV cache of shape {shape}") from None
    return np.frombuffer(memory, dtype, count).reshape(shape)
