"""The embedding table of a decoder whose graph takes vectors: rows are read from the file when they are needed.

A table is a large part of a small model's weights, and a prompt needs a few hundred of its rows. Left in a file, it
costs no resident memory at all. A row is ``columns`` int8 steps and behind them their float32 scale, or one scale for
each block of them, little-endian.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgelm.errors import ClosedError, ModelError, NumericError

# With larger ones, a vector's squares leave float32.
_MOST_SCALE = 1e15


def row_dtype(columns: int, block_size: int | None = None) -> np.dtype[np.void]:
    """How a row lies in the file: ``columns`` bytes, and 4 for each ``block_size`` of them; None: for all of them."""
    scales = -(-columns // (block_size or columns))
    return np.dtype([("steps", np.int8, (columns,)), ("scales", "<f4", (scales,))])


class EmbeddingTable:
    """An open table; may be used by many threads.

    Args:
        path: the file.
        rows: tokens of the vocabulary.
        columns: length of a vector.
        block_size: how many neighbouring columns share a scale, the last ones maybe fewer; None: all.

    Raises:
        ModelError: the file is missing or not of that size.
    """

    def __init__(self, path: Path, *, rows: int, columns: int, block_size: int | None = None) -> None:
        self.rows = rows
        self.columns = columns
        self._block_size = min(block_size or columns, columns)
        self._dtype = row_dtype(columns, block_size)
        self._lock = threading.Lock()
        try:
            self._file = path.open("rb", buffering=0)
        except OSError as error:
            raise ModelError(f"{path.name}: cannot be read: {error.strerror}") from error
        size = self._file.seek(0, 2)
        if size != rows * self._dtype.itemsize:
            self._file.close()
            raise ModelError(f"{path.name}: {size} bytes, but {rows} rows take {rows * self._dtype.itemsize}")

    def lookup(self, ids: Iterable[int], out: NDArray[np.float32]) -> None:
        """Writes the vectors of ``ids`` (S,) to ``out`` (S, columns).

        Raises:
            ClosedError: the table is closed.
            ModelError: the file cannot be read, or has become shorter.
            NumericError: a vector is not of finite numbers. (Rounded together with others in the graph, it would not
                show in the logits.)
            ValueError: an id is outside the table.
        """
        for place, token in enumerate(ids):
            row = self._row(int(token))
            if not np.abs(row["scales"]).max() < _MOST_SCALE:
                raise NumericError(f"the embedding of token {token} is not of finite numbers")
            scales = np.repeat(row["scales"], self._block_size)[: self.columns]
            np.multiply(row["steps"], scales, out=out[place], dtype=np.float32)

    def close(self) -> None:
        """Closes the file; may be called twice."""
        with self._lock:
            self._file.close()

    def _row(self, token: int) -> np.void:
        if not 0 <= token < self.rows:
            raise ValueError(f"token {token} is outside the table of {self.rows} rows")
        with self._lock:
            if self._file.closed:
                raise ClosedError("the model is closed")
            try:
                self._file.seek(token * self._dtype.itemsize)
                data = self._file.read(self._dtype.itemsize)
            except OSError as error:
                raise ModelError(f"the embedding table cannot be read: {error.strerror or error}") from error
        if len(data) < self._dtype.itemsize:
            raise ModelError("the embedding table has become shorter than it was")
        row: np.void = np.frombuffer(data, self._dtype, count=1)[0]
        return row
