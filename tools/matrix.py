"""Weight matrices that are read when they are written, part by part, so that a model never stands in memory whole."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from edgelm.errors import ModelError
from edgelm_tools.checkpoint.base import BlockQuantized, Checkpoint

Part = NDArray[np.float32] | BlockQuantized
# Values of a matrix that are read at a time: what is done to them takes a multiple of their memory.
MOST_VALUES = 1 << 22
Transform = Callable[[NDArray[np.float32]], NDArray[np.float32]]


@dataclass(frozen=True, slots=True)
class Matrix:
    """A linear layer's weight, (rows = outputs, columns = inputs), as a sequence of blocks of rows.

    ``parts()`` reads anew each time it is called; a part is float32 or, where the checkpoint has integers in
    symmetric blocks and nothing had to be changed, those integers.
    """

    rows: int
    columns: int
    parts: Callable[[], Iterator[Part]]

    @staticmethod
    def of(
        checkpoint: Checkpoint,
        name: str,
        transform: Transform | None = None,
        *,
        shape: tuple[int, int] | None = None,
    ) -> Matrix:
        """The tensor of that name; a ``transform`` may change its values, and its ``shape`` if that is given."""
        rows, columns = shape or checkpoint.shape(name)

        def read() -> Iterator[Part]:
            if transform is None:
                quantized = checkpoint.quantized(name)
                if quantized is not None:
                    yield _checked(quantized, name)
                else:
                    yield from _read_parts(checkpoint, name)
            else:
                yield transform(read_tensor(checkpoint, name))

        return Matrix(rows, columns, read)

    @staticmethod
    def stacked(matrices: list[Matrix]) -> Matrix:
        """One matrix with the rows of all: a fused projection such as Q+K+V or gate+up."""

        def read() -> Iterator[Part]:
            for matrix in matrices:
                yield from matrix.parts()

        return Matrix(sum(m.rows for m in matrices), matrices[0].columns, read)

    def mapped(self, transform: Transform) -> Matrix:
        """The matrix with each row changed by itself; it is never held whole once more.

        transform: (some rows, columns) → the same shape.
        """

        def read() -> Iterator[Part]:
            for part in self.float_parts():
                yield transform(part)

        return Matrix(self.rows, self.columns, read)

    def split(self, count: int) -> list[Matrix]:
        """The rows in ``count`` matrices of about the same size; each reads the whole anew and keeps its share."""
        bounds = [self.rows * i // count for i in range(count + 1)]
        return [
            Matrix(end - start, self.columns, partial(self._rows, start, end))
            for start, end in pairwise(bounds)
            if end > start
        ]

    def _rows(self, start: int, end: int) -> Iterator[Part]:
        seen = 0
        for part in self.few_rows():
            wanted = _slice(part, slice(max(start - seen, 0), max(end - seen, 0)))
            seen += _count(part)
            if _count(wanted):
                yield wanted

    def few_rows(self, most_values: int = MOST_VALUES) -> Iterator[Part]:
        """The rows as they are, at most ``most_values`` values at a time."""
        step = max(1, most_values // self.columns)
        for part in self.parts():
            for start in range(0, _count(part), step):
                yield _slice(part, slice(start, start + step))

    def float_parts(self, most_values: int = MOST_VALUES) -> Iterator[NDArray[np.float32]]:
        """The rows as float32, at most ``most_values`` values at a time."""
        for part in self.few_rows(most_values):
            yield floats(part)


def floats(part: Part) -> NDArray[np.float32]:
    """The values of some rows."""
    if not isinstance(part, BlockQuantized):
        return part
    blocks = part.values.reshape(-1, part.values.shape[1] // part.block_size, part.block_size)
    values: NDArray[np.float32] = blocks * part.scales[:, :, None]
    return values.reshape(part.values.shape)


def read_tensor(checkpoint: Checkpoint, name: str) -> NDArray[np.float32]:
    """The tensor's values.

    Raises:
        ModelError: there is no such tensor, or it has a NaN or an infinity; names it.
    """
    values = checkpoint.tensor(name)
    _check_finite(values, name)
    return values


def _read_parts(checkpoint: Checkpoint, name: str) -> Iterator[NDArray[np.float32]]:
    for part in checkpoint.row_parts(name, MOST_VALUES):
        _check_finite(part, name)
        yield part


def _checked(part: BlockQuantized, name: str) -> BlockQuantized:
    _check_finite(part.scales, name)
    return part


def _check_finite(values: NDArray[np.float32], name: str) -> None:
    # A NaN is both the least and the largest value.
    if values.size and not (np.isfinite(values.min()) and np.isfinite(values.max())):
        raise ModelError(f"tensor {name!r:.120} has values that are infinite or no numbers")


def _count(part: Part) -> int:
    return len(part.values if isinstance(part, BlockQuantized) else part)


def _slice(part: Part, rows: slice) -> Part:
    if isinstance(part, BlockQuantized):
        return replace(part, values=part.values[rows], scales=part.scales[rows])
    return part[rows]
