"""The key/value cache: allocate, advance, rewind, reserve. One buffer a tensor, written in place by the graph."""

from __future__ import annotations

import math
import mmap
import sys
from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from edgelm.errors import MemoryLimitError
from edgelm.runtime.session import Binding, Tensor, TensorInfo

# Growing in steps keeps copies rare and leaves at most this many tokens of the cache unused.
GROWTH = 256


class KVCache:
    """Keys and values of all layers, (1, kv_heads, capacity, head_size) each, and how many tokens are valid.

    Names and shapes are the graph's own: every input ``past_key_values.X`` has its output ``present.X``.

    Args:
        inputs: the session's inputs.
        limit: tokens that the cache may ever hold.
    """

    def __init__(self, inputs: Mapping[str, TensorInfo], limit: int) -> None:
        self.limit = limit
        self.length = 0
        self._infos = {name: info for name, info in inputs.items() if name.startswith("past_key_values.")}
        self._tensors: dict[str, Tensor] = {}
        self._allocate(0)

    @property
    def capacity(self) -> int:
        """Tokens for which memory is there."""
        return self._capacity

    @property
    def nbytes(self) -> int:
        """Bytes of all buffers."""
        return sum(tensor.array.nbytes for tensor in self._tensors.values())

    def reserve(self, tokens: int) -> bool:
        """Makes room for just ``tokens`` in all; returns whether the buffers moved and must be bound anew."""
        if tokens <= self._capacity:
            return False
        self._allocate(tokens)
        return True

    def grow(self, tokens: int) -> bool:
        """Like ``reserve``, with room for some more, so that growing token by token copies rarely."""
        return tokens > self._capacity and self.reserve(min(self.limit, -(-tokens // GROWTH) * GROWTH))

    def advance(self, tokens: int) -> None:
        """The graph has written ``tokens`` more."""
        self.length += tokens

    def rewind(self, length: int) -> None:
        """Forgets what stands behind the first ``length`` tokens; their memory is used again."""
        if not 0 <= length <= self.length:
            raise ValueError(f"cannot rewind a cache of {self.length} tokens to {length}")
        self.length = length

    def bind(self, binding: Binding) -> None:
        """Ties past and present of each layer to the same buffer, so that the graph appends in place."""
        for name, tensor in self._tensors.items():
            binding.input(name, tensor)
            binding.output(name.replace("past_key_values", "present", 1), tensor)

    def _allocate(self, capacity: int) -> None:
        # Pages of an anonymous mapping take memory only once they are written, and go back to the system at once.
        shapes = {name: (1, int(i.shape[1]), capacity, int(i.shape[3])) for name, i in self._infos.items()}
        sizes = [math.prod(shapes[name]) * info.dtype.itemsize for name, info in self._infos.items()]
        memory = anonymous_memory(sum(sizes))
        tensors = {}
        offset = 0
        for (name, info), size in zip(self._infos.items(), sizes, strict=True):
            array = np.frombuffer(memory, info.dtype, size // info.dtype.itemsize, offset).reshape(shapes[name])
            if self.length:
                array[:, :, : self.length] = self._tensors[name].array[:, :, : self.length]
            tensors[name] = Tensor(array)
            offset += size
        self._tensors = tensors
        self._capacity = capacity

    def arrays(self) -> Iterator[tuple[str, NDArray[np.float32]]]:
        """Name and valid part of each tensor: (1, kv_heads, length, head_size)."""
        for name, tensor in self._tensors.items():
            yield name, tensor.array[:, :, : self.length]


def anonymous_memory(size: int) -> mmap.mmap:
    """Zeroed memory whose pages are only taken once they are written.

    Raises:
        MemoryLimitError: the system has not that much.
    """
    length = max(size, 1)
    try:
        if sys.platform == "win32":
            return mmap.mmap(-1, length)
        return mmap.mmap(-1, length, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except (OSError, OverflowError):
        raise MemoryLimitError(f"not enough memory for a KV cache of {size} bytes") from None
