"""A GGUF file as a container: metadata and where each tensor lies.

The header is parsed here and not by the package's ``GGUFReader``: that one trusts every count and length, so that a
damaged file makes it loop or allocate without end, and it makes several arrays for each word of a vocabulary.
Layout: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md, versions 2 and 3, little-endian.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgelm.errors import ModelError, UnsupportedModelError
from edgelm_tools.checkpoint.gguf_metadata import Metadata, MetadataValue
from edgelm_tools.checkpoint.gguf_package import type_layout
from edgelm_tools.checkpoint.mapped_file import MappedFile

MAGIC = b"GGUF"
VERSIONS = (2, 3)
DEFAULT_ALIGNMENT = 32
MAX_DIMENSIONS = 4
MAX_NAME_BYTES = 1024

_STRING, _ARRAY, _FLOAT32, _BOOL = 8, 9, 6, 7
_SCALARS = {0: "u1", 1: "i1", 2: "<u2", 3: "<i2", 4: "<u4", 5: "<i4", 6: "<f4", 7: "?", 10: "<u8", 11: "<i8", 12: "<f8"}
_MIN_KEY_BYTES = 8 + 4 + 1
_MIN_TENSOR_BYTES = 8 + 4 + 8 + 4 + 8


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """One tensor as stored: ``shape`` in NumPy's order, ``start`` and ``size`` in bytes from the file's beginning."""

    type_name: str
    shape: tuple[int, ...]
    start: int
    size: int


class GGUFFile:
    """A memory-mapped GGUF file with a checked header.

    Raises:
        ModelError: it is not GGUF, is truncated, or its header contradicts itself.
        UnsupportedModelError: a version, byte order or tensor type that is not read.
        MissingDependencyError: the package gguf is not installed.
    """

    def __init__(self, path: Path) -> None:
        self.file = MappedFile(path)
        cursor = _Cursor(self.file)
        if cursor.take(4) != MAGIC:
            raise ModelError(f"{path}: not a GGUF file: it does not begin with {MAGIC.decode()}")
        self._check_version(cursor.integer("<u4"))
        tensor_count, key_count = cursor.integer("<u8"), cursor.integer("<u8")
        cursor.check_count(key_count, _MIN_KEY_BYTES, "metadata keys")
        values: dict[str, MetadataValue] = {}
        for _ in range(key_count):
            key = cursor.name()
            if key in values:
                raise ModelError(f"{path}: the metadata key {key!r:.120} is repeated")
            values[key] = cursor.value(key)
        self.metadata = Metadata(values, str(path))
        cursor.check_count(tensor_count, _MIN_TENSOR_BYTES, "tensors")
        self.tensors = self._read_tensors(cursor, tensor_count)

    def _check_version(self, version: int) -> None:
        if version in VERSIONS:
            return
        if version and version & 0xFFFF == 0:
            raise UnsupportedModelError(f"{self.file.path}: a big-endian GGUF file; little-endian is read")
        raise UnsupportedModelError(f"{self.file.path}: GGUF version {version}; read are 2 and 3")

    def _read_tensors(self, cursor: _Cursor, count: int) -> dict[str, StoredTensor]:
        alignment = self.metadata.integer("general.alignment", DEFAULT_ALIGNMENT, least=1)
        infos: list[tuple[str, str, tuple[int, ...], int, int]] = []
        for _ in range(count):
            name = cursor.name()
            infos.append((name, *self._tensor_info(cursor, name, alignment)))
        data_start = -(-cursor.position // alignment) * alignment
        tensors: dict[str, StoredTensor] = {}
        for name, type_name, shape, offset, size in infos:
            if name in tensors:
                raise ModelError(f"{self.file.path}: tensor {name!r:.120} is repeated")
            if data_start + offset + size > self.file.size:
                end = data_start + offset + size
                raise ModelError(
                    f"{self.file.path}: truncated: {name!r:.120} ends at byte {end}, the file has {self.file.size}"
                )
            tensors[name] = StoredTensor(type_name, shape, data_start + offset, size)
        self._check_overlap(tensors)
        return tensors

    def _tensor_info(self, cursor: _Cursor, name: str, alignment: int) -> tuple[str, tuple[int, ...], int, int]:
        """Type, shape, offset in the data and size in bytes."""
        where = f"{self.file.path}: tensor {name!r:.120}"
        dimensions = cursor.integer("<u4")
        if not 1 <= dimensions <= MAX_DIMENSIONS:
            raise ModelError(f"{where}: {dimensions} dimensions; 1 to {MAX_DIMENSIONS} are possible")
        sizes = [cursor.integer("<u8") for _ in range(dimensions)]
        type_id, offset = cursor.integer("<u4"), cursor.integer("<u8")
        layout = type_layout(type_id)
        if layout is None:
            raise UnsupportedModelError(f"{where}: unknown GGML type {type_id}")
        type_name, block_size, block_bytes = layout
        if min(sizes) == 0 or sizes[0] % block_size:
            raise ModelError(f"{where}: impossible shape {sizes} for {type_name} with blocks of {block_size}")
        if offset % alignment:
            raise ModelError(f"{where}: offset {offset} is not a multiple of the alignment {alignment}")
        return type_name, tuple(reversed(sizes)), offset, math.prod(sizes) // block_size * block_bytes

    def _check_overlap(self, tensors: dict[str, StoredTensor]) -> None:
        end = 0
        for name, tensor in sorted(tensors.items(), key=lambda item: item[1].start):
            if tensor.start < end:
                raise ModelError(f"{self.file.path}: tensor {name!r:.120} overlaps another")
            end = tensor.start + tensor.size


class _Cursor:
    """Reads a header from front to back; every length is checked against the file before it is believed."""

    def __init__(self, file: MappedFile) -> None:
        self._file = file
        self.position = 0

    def take(self, length: int) -> bytes:
        data = self._file.bytes(self.position, length)
        self.position += length
        return data

    def integer(self, dtype: str) -> int:
        return int.from_bytes(self.take(np.dtype(dtype).itemsize), "little")

    def check_count(self, count: int, least_bytes: int, what: str) -> None:
        """A count that could not fit into the rest of the file is a lie; believing it would take all memory."""
        most = (self._file.size - self.position) // least_bytes
        if count > most:
            raise ModelError(f"{self._file.path}: damaged header: {count} {what}, room for {most}")

    def string(self) -> str:
        length = self.integer("<u8")
        at = self.position
        try:
            return self.take(length).decode("utf-8")
        except UnicodeDecodeError as error:
            raise ModelError(f"{self._file.path}: damaged header: not UTF-8 at byte {at + error.start}") from None

    def name(self) -> str:
        name = self.string()
        if not name or len(name) > MAX_NAME_BYTES:
            raise ModelError(f"{self._file.path}: damaged header: a name of {len(name)} characters")
        return name

    def value(self, key: str) -> MetadataValue:
        kind = self.integer("<u4")
        if kind == _STRING:
            return self.string()
        if kind == _ARRAY:
            return self._array(key)
        if kind not in _SCALARS:
            raise ModelError(f"{self._file.path}: damaged header: {key!r:.120} has the unknown value type {kind}")
        dtype = np.dtype(_SCALARS[kind])
        return _python_scalar(np.frombuffer(self.take(dtype.itemsize), dtype)[0], kind)

    def _array(self, key: str) -> MetadataValue:
        kind, count = self.integer("<u4"), self.integer("<u8")
        if kind == _STRING:
            self.check_count(count, 8, f"strings in {key!r:.120}")
            return [self.string() for _ in range(count)]
        if kind not in _SCALARS:
            raise ModelError(f"{self._file.path}: damaged header: {key!r:.120} is an array of the unknown type {kind}")
        dtype = np.dtype(_SCALARS[kind])
        self.check_count(count, dtype.itemsize, f"numbers in {key!r:.120}")
        return np.frombuffer(self.take(count * dtype.itemsize), dtype)


def _python_scalar(value: Any, kind: int) -> int | float | bool:
    if kind == _BOOL:
        return bool(value)
    if kind == _FLOAT32:
        # The shortest decimal of the float32: 1e-05 as the model's author wrote it, not 9.999999747378752e-06.
        return float(str(value))
    scalar: int | float = value.item()
    return scalar
