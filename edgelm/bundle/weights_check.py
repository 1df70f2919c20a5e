"""Where a graph's weights lie, and whether each lies where it may: inside a listed file, whole, and alone there."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from edgelm.bundle.integrity import check_size
from edgelm.bundle.manifest import FileEntry
from edgelm.bundle.names import name_fault
from edgelm.bundle.onnx_model import DATA_TYPES, ExternalData, OnnxTensor
from edgelm.errors import ModelError

# An element of a 2-bit type packed four to a byte: no typed field holds more elements than that.
_MAX_ELEMENTS_PER_BYTE = 4


class WeightPlaces(NamedTuple):
    """The files outside the graph that hold its weights, and the bytes that all weights take (shared ones once)."""

    files: tuple[str, ...]
    nbytes: int


def check_weights(
    tensors: Iterable[OnnxTensor], *, graph_file: str, folder: Path, files: Mapping[str, FileEntry]
) -> WeightPlaces:
    """Checks all tensors of a graph: known type, sound shape, and data of just that size in a place of their own.

    Two tensors may share one range, byte for byte; any other overlap is refused.

    Raises:
        ModelError: a tensor breaks a rule; names it and the file.
        IntegrityError: a file with weights is missing, no regular file, or of another size than the manifest's.
    """
    ranges: dict[str, dict[tuple[int, int], str]] = {}
    inline = 0
    for tensor in tensors:
        where = f"{graph_file}: tensor {tensor.name[:80]!a}"
        size = _tensor_bytes(tensor, where)
        if tensor.external is None:
            _check_inline(tensor, size, where)
            inline += size
            continue
        _check_location(tensor.external, size, where, files)
        used = ranges.setdefault(tensor.external.location, {})
        used.setdefault((tensor.external.offset, tensor.external.offset + size), tensor.name)
    for name, used in ranges.items():
        check_size(folder, name, files[name])
        _check_overlaps(used, name, graph_file)
    outside = sum(stop - start for used in ranges.values() for start, stop in used)
    return WeightPlaces(files=tuple(sorted(ranges)), nbytes=inline + outside)


def _tensor_bytes(tensor: OnnxTensor, where: str) -> int:
    bits = DATA_TYPES.get(tensor.dtype, ("", 0))[1]
    if not bits:
        raise ModelError(f"{where} has element type {tensor.dtype}, which EdgeLM does not read")
    if any(dim < 0 for dim in tensor.dims):
        raise ModelError(f"{where} has a negative dimension: {list(tensor.dims)}")
    return -(-math.prod(tensor.dims) * bits // 8)


def _check_inline(tensor: OnnxTensor, size: int, where: str) -> None:
    if tensor.raw_bytes is not None:
        if tensor.raw_bytes != size:
            raise ModelError(f"{where} has {tensor.raw_bytes} bytes of data, but its shape needs {size}")
    elif math.prod(tensor.dims) > _MAX_ELEMENTS_PER_BYTE * tensor.typed_bytes:
        raise ModelError(f"{where} has {tensor.typed_bytes} bytes of data, too few for the shape {list(tensor.dims)}")


def _check_location(place: ExternalData, size: int, where: str, files: Mapping[str, FileEntry]) -> None:
    entry = files.get(place.location)
    if entry is None:
        fault = name_fault(place.location)
        reason = f"is not a safe file name: it {fault}" if fault else "the manifest does not list"
        raise ModelError(f"{where} lies in {place.location[:80]!a}, which {reason}")
    if place.offset < 0:
        raise ModelError(f"{where} begins at the negative offset {place.offset} of {place.location}")
    if place.length is not None and place.length != size:
        raise ModelError(f"{where} has {place.length} bytes in {place.location}, but its shape needs {size}")
    if place.offset + size > entry.size:
        raise ModelError(
            f"{where} ends at byte {place.offset + size} of {place.location}, which has {entry.size} bytes"
        )


def _check_overlaps(used: dict[tuple[int, int], str], name: str, graph_file: str) -> None:
    end, owner = 0, ""
    for (start, stop), tensor in sorted(used.items()):
        if start == stop:
            continue
        if start < end:
            raise ModelError(
                f"{graph_file}: tensors {owner[:80]!a} and {tensor[:80]!a} overlap at byte {start} of {name}"
            )
        end, owner = stop, tensor
