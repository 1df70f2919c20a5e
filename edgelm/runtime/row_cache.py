"""The key/value cache of a batch: a slot a row, written in place by the graph, each with a length of its own."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from edgelm.runtime.kv_cache import GROWTH, anonymous_memory
from edgelm.runtime.session import Binding, Tensor, TensorInfo

_PREFIX = "past_key_values."


class RowCache:
    """Keys and values of all layers, (slots, kv_heads, capacity, head_size) each.

    Args:
        inputs: the session's inputs; names and shapes are the graph's own.
        limit: tokens that a row may ever have.

    Attributes:
        lengths: (slots,) int64, valid tokens of each slot.
        capacity: tokens for which a slot has memory.
    """

    def __init__(self, inputs: Mapping[str, TensorInfo], limit: int) -> None:
        self.limit = limit
        self.capacity = 0
        self.lengths = np.zeros(0, np.int64)
        self._infos = {name: info for name, info in inputs.items() if name.startswith(_PREFIX)}
        self._arrays = self._allocated(0, 0)

    @property
    def slots(self) -> int:
        """Slots for which there is memory."""
        return len(self.lengths)

    def reserve(self, slots: int, tokens: int) -> bool:
        """Makes room for ``tokens`` in each of ``slots``; returns whether the buffers moved and must be bound anew."""
        if slots <= self.slots and tokens <= self.capacity:
            return False
        arrays = self._allocated(max(slots, self.slots), max(tokens, self.capacity))
        for slot, length in enumerate(self.lengths.tolist()):
            for name, array in arrays.items():
                array[slot, :, :length] = self._arrays[name][slot, :, :length]
        self._arrays = arrays
        self.capacity = max(tokens, self.capacity)
        self.lengths = np.concatenate((self.lengths, np.zeros(max(0, slots - self.slots), np.int64)))
        return True

    def grow(self, tokens: int) -> bool:
        """Like ``reserve`` for the slots there are, with room for some more, so that growing step by step is rare."""
        return tokens > self.capacity and self.reserve(self.slots, min(self.limit, -(-tokens // GROWTH) * GROWTH))

    def copy(self, source: int, target: int) -> None:
        """Makes slot ``target`` what slot ``source`` is; only valid tokens are copied."""
        length = int(self.lengths[source])
        for array in self._arrays.values():
            array[target, :, :length] = array[source, :, :length]
        self.lengths[target] = length

    def bind(self, binding: Binding, first: int, count: int) -> list[Tensor]:
        """Ties past and present of ``count`` slots to the same memory; the tensors must live as long as the binding."""
        tensors = []
        for name, array in self._arrays.items():
            tensors.append(Tensor(array[first : first + count]))
            binding.input(name, tensors[-1])
            binding.output(name.replace("past_key_values", "present", 1), tensors[-1])
        return tensors

    def _allocated(self, slots: int, capacity: int) -> dict[str, NDArray[np.float32]]:
        # Memory of the system's that is not touched is not taken: rows may be shorter than what is reserved.
        shapes = {name: (slots, int(i.shape[1]), capacity, int(i.shape[3])) for name, i in self._infos.items()}
        sizes = {name: math.prod(shapes[name]) * info.dtype.itemsize for name, info in self._infos.items()}
        memory = anonymous_memory(sum(sizes.values()))
        arrays, offset = {}, 0
        for name, info in self._infos.items():
            flat = np.frombuffer(memory, info.dtype, math.prod(shapes[name]), offset)
            arrays[name] = flat.reshape(shapes[name])
            offset += sizes[name]
        return arrays
