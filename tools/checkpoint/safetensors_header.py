"""The header of a safetensors file, checked before a byte of data is touched.

Layout (https://github.com/huggingface/safetensors#format): the header's length as a little-endian 64-bit integer,
the header as JSON, then the data without holes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from edgelm.errors import ModelError, UnsupportedModelError
from edgelm_tools.checkpoint.mapped_file import MappedFile
from edgelm_tools.checkpoint.strict_json import parse_json_object

MAX_HEADER_BYTES = 100_000_000
MAX_DIMENSIONS = 8
MAX_ELEMENTS = 2**48

# Every dtype of the format, so that a file with a foreign buffer still opens; bits an element.
DTYPE_BITS = {
    "BOOL": 8,
    "U8": 8,
    "I8": 8,
    "F8_E5M2": 8,
    "F8_E4M3": 8,
    "F8_E8M0": 8,
    "F6_E2M3": 6,
    "F6_E3M2": 6,
    "F4": 4,
    "U16": 16,
    "I16": 16,
    "F16": 16,
    "BF16": 16,
    "U32": 32,
    "I32": 32,
    "F32": 32,
    "U64": 64,
    "I64": 64,
    "F64": 64,
    "C64": 64,
}


@dataclass(frozen=True, slots=True)
class TensorEntry:
    """One tensor of a file: ``start`` and ``end`` are bytes from the beginning of the file."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int


def read_header(file: MappedFile) -> dict[str, TensorEntry]:
    """The tensors of a safetensors file, by name.

    Raises:
        ModelError: the header is too long, not such JSON, or its offsets, shapes and dtypes do not agree.
        UnsupportedModelError: a dtype is not one of the format's.
    """
    length = int.from_bytes(file.bytes(0, 8), "little")
    if length > MAX_HEADER_BYTES or length > file.size - 8:
        most = min(MAX_HEADER_BYTES, file.size - 8)
        raise ModelError(f"{file.path}: not a safetensors file: a header of {length} bytes, at most {most} possible")
    header = parse_json_object(file.bytes(8, length), f"{file.path}: header")
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise ModelError(f"{file.path}: header: __metadata__ must map names to strings")
    data_start = 8 + length
    entries = {name: _entry(name, fields, data_start, file) for name, fields in header.items()}
    _check_layout(entries, data_start, file)
    return entries


def _entry(name: str, fields: Any, data_start: int, file: MappedFile) -> TensorEntry:
    where = f"{file.path}: tensor {name!r:.120}"
    if not isinstance(fields, dict) or set(fields) != {"dtype", "shape", "data_offsets"}:
        raise ModelError(f"{where}: must have exactly dtype, shape and data_offsets")
    dtype, shape, offsets = fields["dtype"], fields["shape"], fields["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPE_BITS:
        raise UnsupportedModelError(f"{where}: unknown dtype {dtype!r:.40}; known are {', '.join(DTYPE_BITS)}")
    if not _naturals(shape) or len(shape) > MAX_DIMENSIONS or math.prod(max(size, 1) for size in shape) > MAX_ELEMENTS:
        raise ModelError(f"{where}: impossible shape {shape!r:.80}")
    if not _naturals(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise ModelError(f"{where}: impossible data_offsets {offsets!r:.80}")
    start, end = (data_start + offset for offset in offsets)
    if end > file.size:
        raise ModelError(f"{where}: truncated: ends at byte {end}, the file has {file.size}")
    bits = math.prod(shape) * DTYPE_BITS[dtype]
    if bits != 8 * (end - start):
        raise ModelError(f"{where}: {dtype} of shape {shape!r:.80} takes {bits / 8:g} bytes, not {end - start}")
    return TensorEntry(dtype, tuple(shape), start, end)


def _naturals(value: Any) -> bool:
    """Whether it is a list of integers, none below zero (JSON's true is no integer)."""
    return isinstance(value, list) and all(type(item) is int and item >= 0 for item in value)


def _check_layout(entries: dict[str, TensorEntry], data_start: int, file: MappedFile) -> None:
    """The tensors must fill the data exactly: no overlap, no hole, nothing behind, as the format demands."""
    position = data_start
    for name, entry in sorted(entries.items(), key=lambda item: (item[1].start, item[1].end)):
        if entry.start != position:
            fault = "overlaps another" if entry.start < position else "leaves a hole before it"
            raise ModelError(f"{file.path}: tensor {name!r:.120} {fault}: at byte {entry.start}, not {position}")
        position = entry.end
    if position != file.size:
        raise ModelError(f"{file.path}: {file.size - position} bytes behind the last tensor")
