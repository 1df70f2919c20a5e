"""A file mapped into memory, read-only, with every access checked against its size."""

from __future__ import annotations

import mmap
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from edgelm.errors import ClosedError, ModelError


class MappedFile:
    """A memory-mapped file; knows nothing about formats.

    Raises:
        ModelError: the file is missing, empty, not a regular file, or cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        # A named pipe would block on open: look before opening.
        if not path.is_file():
            raise ModelError(f"{path}: no such file")
        try:
            with path.open("rb") as file:
                self._map: mmap.mmap | None = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except ValueError:
            raise ModelError(f"{path}: the file is empty") from None
        except OSError as error:
            raise ModelError(f"{path}: cannot be read: {error.strerror}") from error
        self.size = len(self._map)

    def bytes(self, start: int, length: int) -> bytes:
        """A copy of ``length`` bytes from ``start``.

        Raises:
            ModelError: the range is not inside the file.
            ClosedError: the file was closed.
        """
        return self._checked(start, length)[start : start + length]

    def array(self, dtype: DTypeLike, start: int, count: int) -> NDArray[Any]:
        """A read-only view of ``count`` values from byte ``start``; it keeps the mapping alive.

        Raises:
            ModelError: the range is not inside the file.
            ClosedError: the file was closed.
        """
        mapped = self._checked(start, count * np.dtype(dtype).itemsize)
        return np.frombuffer(mapped, dtype=dtype, count=count, offset=start)

    def forget(self) -> None:
        """Gives the memory of what was read back to the system; the next read brings it in again."""
        if self._map is not None and hasattr(mmap, "MADV_DONTNEED"):
            self._map.madvise(mmap.MADV_DONTNEED)

    def close(self) -> None:
        """Lets go of the mapping; it ends with the last array that looks into it."""
        self._map = None

    def _checked(self, start: int, length: int) -> mmap.mmap:
        if self._map is None:
            raise ClosedError(f"{self.path}: used after close()")
        if start < 0 or length < 0 or start + length > self.size:
            raise ModelError(
                f"{self.path}: truncated: needs bytes {start} to {start + length}, the file has {self.size}"
            )
        return self._map
