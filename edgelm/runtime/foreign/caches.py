"""The caches that graphs of other tools work on: several rows side by side, which grow together.

A growing cache is what most exporters make: each run takes the past and gives a new, longer tensor, which is the next
run's past, as it is and uncopied. Its rows end together, so shorter ones are padded on the left. A shared cache is
for graphs whose attention writes in place (GroupQueryAttention); its rows begin together.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from edgelm.bundle.foreign_contract import CROSS, PAST, PRESENT
from edgelm.errors import MemoryLimitError
from edgelm.runtime.row_cache import GROWTH
from edgelm.runtime.session import Binding, Tensor, TensorInfo


class Cache(Protocol):
    """Keys and values of B rows, each tensor (B, heads, tokens, head size), and how many tokens each row has.

    Attributes:
        lengths: (B,) tokens that are valid.
    """

    lengths: NDArray[np.int64]

    @property
    def is_empty(self) -> bool:
        """Whether nothing was computed yet."""
        ...

    @property
    def capacity(self) -> int:
        """Tokens of a row for which memory is there."""
        ...

    def mask(self, tokens: int) -> NDArray[np.int64]:
        """(B, T) 1 for each valid token, ``tokens`` new ones at the end of each row included."""
        ...

    def bind(self, binding: Binding, inputs: Mapping[str, TensorInfo], outputs: Sequence[str], tokens: int) -> None:
        """Ties the past to the inputs, and the present, ``tokens`` longer, to the outputs."""
        ...

    def advance(self, tokens: int, made: Mapping[str, Tensor]) -> None:
        """A run has appended ``tokens``; ``made``: the outputs that the runtime made memory for."""
        ...

    def rewind(self, length: int) -> None:
        """Forgets all but the first ``length`` tokens of a single row."""
        ...

    def select(self, rows: NDArray[np.int64], *, same_sources: bool) -> None:
        """Row r becomes what row ``rows[r]`` was; ``same_sources``: what comes from the sources stays in place."""
        ...

    @classmethod
    def stacked(cls, caches: Sequence[Self]) -> Self:
        """The rows of all caches in one."""
        ...


class GrowingCache:
    """A ``Cache`` of tensors that the runtime makes.

    Args:
        rows: B.
        heads, head_size: of the keys and values.
    """

    def __init__(self, rows: int, heads: int, head_size: int) -> None:
        self.lengths = np.zeros(rows, np.int64)
        self._shape = (rows, heads, 0, head_size)
        self._tensors: dict[str, Tensor] = {}
        self._width = 0

    @property
    def is_empty(self) -> bool:
        """See ``Cache``."""
        return self._width == 0

    @property
    def capacity(self) -> int:
        """See ``Cache``."""
        return self._width

    def mask(self, tokens: int) -> NDArray[np.int64]:
        """See ``Cache``."""
        places = np.arange(self._width + tokens)
        return (places >= (self._width - self.lengths)[:, None]).astype(np.int64)

    def bind(self, binding: Binding, inputs: Mapping[str, TensorInfo], outputs: Sequence[str], tokens: int) -> None:
        """See ``Cache``."""
        for name, info in inputs.items():
            if name.startswith(PAST):
                if name not in self._tensors:
                    self._tensors[name] = Tensor(np.zeros(self._empty_shape(info), info.dtype))
                binding.input(name, self._tensors[name])
        for name in outputs:
            binding.new_output(name)

    def advance(self, tokens: int, made: Mapping[str, Tensor]) -> None:
        """See ``Cache``."""
        first = self.is_empty
        for name, tensor in made.items():
            # A branch with a past gives dummies in place of what the first run has made of the source.
            if first or CROSS not in name:
                self._tensors[PAST + name.removeprefix(PRESENT)] = tensor
        self._width += tokens
        self.lengths = self.lengths + tokens

    def rewind(self, length: int) -> None:
        """See ``Cache``."""
        if length == self._width:
            return
        self._width = length
        self.lengths = np.full_like(self.lengths, length)
        if length == 0:
            self._tensors = {}
        self._change(lambda array: np.ascontiguousarray(array[:, :, :length]), cross=False)

    def select(self, rows: NDArray[np.int64], *, same_sources: bool) -> None:
        """See ``Cache``."""
        if np.array_equal(rows, np.arange(len(self.lengths))):
            return
        self.lengths = self.lengths[rows]
        self._shape = (len(rows), *self._shape[1:])
        self._change(lambda array: array[rows], cross=not same_sources)
        unused = self._width - int(self.lengths.max())
        if unused:  # the longest rows have left
            self._width -= unused
            self._change(lambda array: np.ascontiguousarray(array[:, :, unused:]), cross=False)

    @classmethod
    def stacked(cls, caches: Sequence[Self]) -> Self:
        """See ``Cache``."""
        _, heads, _, head_size = caches[0]._shape
        stack = cls(sum(cache._shape[0] for cache in caches), heads, head_size)
        stack.lengths = np.concatenate([cache.lengths for cache in caches])
        stack._width = max(cache._width for cache in caches)
        for name in caches[0]._tensors:
            padded = [cache._padded(name, stack._width) for cache in caches]
            stack._tensors[name] = Tensor(np.concatenate(padded))
        return stack

    def _padded(self, name: str, width: int) -> NDArray[Any]:
        array = self._tensors[name].array
        missing = 0 if CROSS in name else width - self._width
        return np.pad(array, ((0, 0), (0, 0), (missing, 0), (0, 0))) if missing else array

    def _change(self, change: Callable[[NDArray[Any]], NDArray[Any]], *, cross: bool) -> None:
        for name, tensor in self._tensors.items():
            if cross or CROSS not in name:
                self._tensors[name] = Tensor(change(tensor.array))

    def _empty_shape(self, info: TensorInfo) -> tuple[int, ...]:
        heads, size = info.shape[1], info.shape[3]
        return (
            self._shape[0],
            heads if isinstance(heads, int) else self._shape[1],
            0,
            size if isinstance(size, int) else self._shape[3],
        )


class SharedCache:
    """A ``Cache`` of buffers that the graph writes to in place.

    Args:
        rows: B.
        heads, head_size: of the keys and values.
        capacity: tokens to make room for.
    """

    def __init__(self, rows: int, heads: int, head_size: int, capacity: int = 0) -> None:
        self.lengths = np.zeros(rows, np.int64)
        self._shape = (rows, heads, capacity, head_size)
        self._tensors: dict[str, Tensor] = {}

    @property
    def is_empty(self) -> bool:
        """See ``Cache``."""
        return not self.lengths.any()

    @property
    def capacity(self) -> int:
        """See ``Cache``."""
        return self._shape[2]

    def mask(self, tokens: int) -> NDArray[np.int64]:
        """See ``Cache``."""
        ends = self.lengths + tokens
        return (np.arange(ends.max()) < ends[:, None]).astype(np.int64)

    def bind(self, binding: Binding, inputs: Mapping[str, TensorInfo], outputs: Sequence[str], tokens: int) -> None:
        """See ``Cache``."""
        self._make_room(int(self.lengths.max()) + tokens)
        for name, info in inputs.items():
            if name.startswith(PAST):
                if name not in self._tensors:
                    self._tensors[name] = Tensor(_zeros(self._shape, info.dtype))
                binding.input(name, self._tensors[name])
                binding.output(PRESENT + name.removeprefix(PAST), self._tensors[name])

    def advance(self, tokens: int, made: Mapping[str, Tensor]) -> None:
        """See ``Cache``."""
        self.lengths = self.lengths + tokens

    def rewind(self, length: int) -> None:
        """See ``Cache``."""
        self.lengths = np.full_like(self.lengths, length)

    def select(self, rows: NDArray[np.int64], *, same_sources: bool) -> None:
        """See ``Cache``."""
        if np.array_equal(rows, np.arange(len(self.lengths))):
            return
        self.lengths = self.lengths[rows]
        self._shape = (len(rows), *self._shape[1:])
        self._tensors = {name: Tensor(tensor.array[rows]) for name, tensor in self._tensors.items()}

    @classmethod
    def stacked(cls, caches: Sequence[Self]) -> Self:
        """See ``Cache``."""
        _, heads, _, head_size = caches[0]._shape
        capacity = max(cache.capacity for cache in caches)
        stack = cls(sum(cache._shape[0] for cache in caches), heads, head_size, capacity)
        for name, first in caches[0]._tensors.items():
            array = _zeros(stack._shape, first.array.dtype)
            start = 0
            for cache in caches:
                part = cache._tensors[name].array
                array[start : start + len(part), :, : part.shape[2]] = part
                start += len(part)
            stack._tensors[name] = Tensor(array)
        stack.lengths = np.concatenate([cache.lengths for cache in caches])
        return stack

    def _make_room(self, tokens: int) -> None:
        if tokens <= self.capacity:
            return
        rows, heads, _, size = self._shape
        self._shape = (rows, heads, -(-tokens // GROWTH) * GROWTH, size)
        valid = int(self.lengths.max())
        for name, tensor in self._tensors.items():
            array = _zeros(self._shape, tensor.array.dtype)
            array[:, :, :valid] = tensor.array[:, :, :valid]
            self._tensors[name] = Tensor(array)


def _zeros(shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
    try:
        return np.zeros(shape, dtype)  # pages that nothing is written to take no memory
    except MemoryError:
        raise MemoryLimitError(f"not enough memory for a KV cache of shape {shape}") from None
