"""What EdgeLM knows of an ONNX file before a runtime may have it: its parts, without a weight in them."""

from __future__ import annotations

from typing import NamedTuple

# TensorProto.DataType → name and bits of one element; 0 bits: no fixed size. Source: onnx.proto.
DATA_TYPES: dict[int, tuple[str, int]] = {
    1: ("float32", 32),
    2: ("uint8", 8),
    3: ("int8", 8),
    4: ("uint16", 16),
    5: ("int16", 16),
    6: ("int32", 32),
    7: ("int64", 64),
    8: ("string", 0),
    9: ("bool", 8),
    10: ("float16", 16),
    11: ("float64", 64),
    12: ("uint32", 32),
    13: ("uint64", 64),
    14: ("complex64", 64),
    15: ("complex128", 128),
    16: ("bfloat16", 16),
    17: ("float8e4m3fn", 8),
    18: ("float8e4m3fnuz", 8),
    19: ("float8e5m2", 8),
    20: ("float8e5m2fnuz", 8),
    21: ("uint4", 4),
    22: ("int4", 4),
    23: ("float4e2m1", 4),
    24: ("float8e8m0", 8),
    25: ("uint2", 2),
    26: ("int2", 2),
}


class ExternalData(NamedTuple):
    """Where a tensor's bytes are: in file ``location`` from ``offset``; ``length`` None means "as the shape says"."""

    location: str
    offset: int
    length: int | None


class OnnxTensor(NamedTuple):
    """A tensor without its values.

    ``dtype``: a key of ``DATA_TYPES`` in a sound file; ``raw_bytes``: size of ``raw_data``, None when there is none;
    ``typed_bytes``: what the typed data fields (``float_data``, ``int64_data``, …) take in the file.
    """

    name: str
    dtype: int
    dims: tuple[int, ...]
    external: ExternalData | None
    raw_bytes: int | None
    typed_bytes: int


class OnnxAttribute(NamedTuple):
    """A node's attribute: its name, and what it holds that needs checking. Numbers and strings are not kept."""

    name: str
    tensors: tuple[OnnxTensor, ...]
    subgraphs: tuple[OnnxGraph, ...]
    sparse_tensors: int


class OnnxNode(NamedTuple):
    """An operator call."""

    domain: str
    op_type: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: tuple[OnnxAttribute, ...]


class ValueInfo(NamedTuple):
    """An input or output of a graph.

    ``dtype`` 0 and ``dims`` None: not a tensor, or not said. Each dim is its size, its symbolic name, or None.
    """

    name: str
    dtype: int
    dims: tuple[int | str | None, ...] | None

    def __str__(self) -> str:
        dtype = DATA_TYPES.get(self.dtype, ("no tensor", 0))[0]
        if self.dims is None:
            return f"{dtype} of unknown shape"
        return f"{dtype} ({', '.join('?' if dim is None else str(dim) for dim in self.dims)})"


class OnnxGraph(NamedTuple):
    """The parts of a graph; of sparse initializers only the number."""

    name: str
    nodes: tuple[OnnxNode, ...]
    initializers: tuple[OnnxTensor, ...]
    inputs: tuple[ValueInfo, ...]
    outputs: tuple[ValueInfo, ...]
    sparse_initializers: int


class OnnxModel(NamedTuple):
    """The parts of a model. ``opsets``: (domain, version); ``functions``: (domain, name) of those it defines."""

    ir_version: int
    opsets: tuple[tuple[str, int], ...]
    graph: OnnxGraph
    functions: tuple[tuple[str, str], ...]
    metadata: tuple[tuple[str, str], ...]
