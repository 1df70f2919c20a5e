"""Marian's binary model file: a table of tensors, checked against the file's size before a byte of data is touched.

Layout, little-endian: ``uint64`` version (1) and number of tensors; for each tensor four ``uint64``: length of its name
with the NUL behind it, type, number of dimensions, length of its data; then the names, then the dimensions as
``int32``, then a ``uint64`` that says how many bytes of padding follow, then the data of all tensors in order. Data is
padded, so its length is at least what the shape needs. Source: marian-dev, ``src/common/binary.cpp``, ``types.h``.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass

from edgelm.errors import ModelError, UnsupportedModelError
from edgelm_tools.checkpoint.mapped_file import MappedFile

VERSION = 1
# What a file begins with, as far as it tells this format from others.
MAGIC = VERSION.to_bytes(8, "little")
BYTES, FLOAT32, INT8 = 0x101, 0x404, 0x4101
# Behind the integers of a tensor stands the float32 that they were multiplied by.
MULTIPLIER_BYTES = 4
_ITEM_BYTES = {BYTES: 1, FLOAT32: 4, INT8: 1}
_HEADER_BYTES = 32
MAX_TENSORS = 1 << 16
MAX_NAME_BYTES = 1 << 10
MAX_DIMENSIONS = 8
_WHOLE = re.compile(r"[-+]?[0-9]{1,18}")
_DECIMAL = re.compile(r"[-+]?[0-9]{1,18}\.[0-9]{0,18}(?:e[-+]?[0-9]{1,2})?")


@dataclass(frozen=True, slots=True)
class MarianTensor:
    """One tensor of a file: ``start`` and ``length`` are bytes; the data may be longer than the shape needs."""

    kind: int
    shape: tuple[int, ...]
    start: int
    length: int

    @property
    def count(self) -> int:
        """How many values it has."""
        return math.prod(self.shape)


def read_table(file: MappedFile) -> dict[str, MarianTensor]:
    """The tensors of a file, by name.

    Raises:
        ModelError: version, lengths, names or shapes are not sound, or do not agree with the file's size.
        UnsupportedModelError: a tensor is of a type that is not read; names it.
    """
    version, count = _numbers(file, 0, 2)
    if version != VERSION:
        raise ModelError(f"{file.path}: not a Marian model: version {version}, read is {VERSION}")
    if not 0 < count <= MAX_TENSORS:
        raise ModelError(f"{file.path}: {count} tensors; from 1 to {MAX_TENSORS} are read")
    headers = [_numbers(file, 16 + _HEADER_BYTES * i, 4) for i in range(count)]
    names, position = _names(file, headers, 16 + _HEADER_BYTES * count)
    shapes, position = _shapes(file, headers, names, position)
    (padding,) = _numbers(file, position, 1)
    position += 8 + padding
    tensors: dict[str, MarianTensor] = {}
    for name, shape, (_, kind, _, length) in zip(names, shapes, headers, strict=True):
        if name in tensors:
            raise ModelError(f"{file.path}: tensor {name!r:.120} is there twice")
        tensors[name] = MarianTensor(kind, shape, position, length)
        _check_data(file, name, tensors[name])
        position += length
    if position != file.size:
        raise ModelError(f"{file.path}: its tensors end at byte {position}, the file at {file.size}")
    return tensors


def _names(file: MappedFile, headers: list[list[int]], position: int) -> tuple[list[str], int]:
    names = []
    for length, *_ in headers:
        if not 1 < length <= MAX_NAME_BYTES:
            raise ModelError(f"{file.path}: a tensor's name of {length} bytes; from 2 to {MAX_NAME_BYTES} are read")
        data = file.bytes(position, length)
        if not data.endswith(b"\0") or b"\0" in data[:-1] or not data.isascii():
            raise ModelError(f"{file.path}: {data!r:.120} is not a tensor's name")
        names.append(data[:-1].decode("ascii"))
        position += length
    return names, position


def _shapes(
    file: MappedFile, headers: list[list[int]], names: list[str], position: int
) -> tuple[list[tuple[int, ...]], int]:
    shapes = []
    for name, (_, _, dimensions, _) in zip(names, headers, strict=True):
        if not 0 < dimensions <= MAX_DIMENSIONS:
            raise ModelError(
                f"{file.path}: tensor {name!r} has {dimensions} dimensions; read are 1 to {MAX_DIMENSIONS}"
            )
        shape = tuple(int(size) for size in file.array("<i4", position, dimensions))
        if min(shape) < 1:
            raise ModelError(f"{file.path}: tensor {name!r} has the shape {shape}")
        shapes.append(shape)
        position += 4 * dimensions
    return shapes, position


def _check_data(file: MappedFile, name: str, tensor: MarianTensor) -> None:
    if tensor.kind not in _ITEM_BYTES:
        raise UnsupportedModelError(
            f"{file.path}: tensor {name!r} is of type {tensor.kind:#x}; read are {', '.join(map(hex, _ITEM_BYTES))}"
        )
    needed = tensor.count * _ITEM_BYTES[tensor.kind] + (MULTIPLIER_BYTES if tensor.kind == INT8 else 0)
    if tensor.length < needed:
        raise ModelError(f"{file.path}: tensor {name!r} has {tensor.length} bytes; {tensor.shape} needs {needed}")
    if tensor.start + tensor.length > file.size:
        raise ModelError(
            f"{file.path}: truncated: tensor {name!r} ends at byte {tensor.start + tensor.length}, "
            f"the file has {file.size}"
        )


def _numbers(file: MappedFile, start: int, count: int) -> list[int]:
    return [int(value) for value in file.array("<u8", start, count)]


def settings(text: str) -> Iterator[tuple[str, str | int | float | bool]]:
    """The single values of a model's ``special:model.yml``: lines ``key: value``; lists and nested maps are left out.

    Plain values are read as YAML reads them: ``true``, whole numbers, decimal numbers, else text, quoted or not.
    """
    for line in text.splitlines():
        name, colon, value = line.partition(":")
        if colon and value.strip() and name == name.strip() and not name.startswith(("-", "#")):
            yield name, _value(value.strip())


def _value(text: str) -> str | int | float | bool:
    if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"":
        return text[1:-1]
    if text in ("true", "false"):
        return text == "true"
    if _WHOLE.fullmatch(text):
        return int(text)
    return float(text) if _DECIMAL.fullmatch(text) else text
