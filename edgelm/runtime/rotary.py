"""Turns keys back to earlier positions: rotary embeddings (arxiv.org/abs/2104.09864) can be undone by a fixed angle.

The cache holds keys as they were rotated; those of an int8 cache are rounded anew when they are turned. The angles are
those of the graph's own tables, so whatever scaling a model has is in them; two rows of each are read, none is kept.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgelm.bundle.bundle import Bundle
from edgelm.bundle.manifest import NATIVE_LAYOUT
from edgelm.bundle.onnx_model import OnnxGraph, OnnxNode, OnnxTensor
from edgelm.bundle.onnx_reader import read_model
from edgelm.bundle.regular_file import open_file, read_file
from edgelm.config import KVCacheType
from edgelm.errors import ModelError, UnsupportedModelError
from edgelm.runtime.int8_cache import cache_scales, quantized, scales_by_input

MAX_GRAPH_BYTES = 1 << 31
# Places among GroupQueryAttention's inputs.
_PAST_KEY, _COS, _SIN = 3, 7, 8
_FLOAT32 = 1


class _Angles(NamedTuple):
    """Of so many positions: (pairs,) float32 each."""

    cos: NDArray[np.float32]
    sin: NDArray[np.float32]


class KeyTurn:
    """Turns the keys of a model's cache back by a fixed number of positions.

    Args:
        bundle: of one of EdgeLM's own decoders.
        positions: that number.
        kv_cache: the type of the cache.

    Raises:
        UnsupportedModelError: its keys cannot be turned; says why.
    """

    def __init__(self, bundle: Bundle, positions: int, kv_cache: KVCacheType = "f32") -> None:
        name = bundle.manifest.name
        if bundle.manifest.layout != NATIVE_LAYOUT or bundle.manifest.family != "decoder":
            raise UnsupportedModelError(f"{name}: only EdgeLM's own decoders can go on past their context window")
        file = bundle.path(bundle.manifest.graphs["decoder"])
        graph = read_model(read_file(file.parent, file.name, limit=MAX_GRAPH_BYTES), what=file.name).graph
        if any(value.name == "position_ids" for value in graph.inputs):
            raise UnsupportedModelError(
                f"{name} cannot go on past its context window: it learned its positions one by one, and what is in the "
                "cache cannot be moved to others"
            )
        tables = {tensor.name: tensor for tensor in graph.initializers}
        read: dict[tuple[str, str], _Angles] = {}
        self._angles: dict[str, _Angles] = {}
        for node in _attention(graph, layers=bundle.manifest.kv.layers if bundle.manifest.kv else 0, name=name):
            pair = node.inputs[_COS : _SIN + 1]
            if len(pair) == 2 and all(pair):  # a layer without knows no positions, or biases by distance
                key = (pair[0], pair[1])
                read.setdefault(key, _angles(bundle, tables, key, positions))
                self._angles[node.inputs[_PAST_KEY]] = read[key]
        self._scales = scales_by_input(cache_scales(bundle)) if kv_cache == "int8" else {}

    def __call__(self, name: str, keys: NDArray[Any]) -> None:
        """Turns the tensor of that input, (1, kv_heads, tokens, head_size), in place, if it is of rotated keys."""
        angles = self._angles.get(name)
        if angles is None:
            return
        scale = self._scales.get(name)
        if scale is None:
            _turn(keys, angles)
            return
        values = keys * scale[:, None]
        _turn(values, angles)
        keys[:] = quantized(values, scale[:, None])


def rotated_pairs(graph: OnnxGraph) -> dict[str, int]:
    """How many pairs of channels a decoder turns in the keys of each layer, by the input's name.

    Channel i is turned together with channel i + that number. A layer that knows no positions is left out.
    """
    widths = {tensor.name: tensor.dims[-1] for tensor in graph.initializers if tensor.dims}
    return {
        node.inputs[_PAST_KEY]: widths[node.inputs[_COS]]
        for node in graph.nodes
        if node.op_type == "GroupQueryAttention" and len(node.inputs) > _COS and node.inputs[_COS] in widths
    }


def _turn(keys: NDArray[np.float32], angles: _Angles) -> None:
    half = len(angles.cos)
    first, second = keys[..., :half], keys[..., half : 2 * half]
    turned = first * angles.cos + second * angles.sin
    second[:] = second * angles.cos - first * angles.sin
    first[:] = turned


def _attention(graph: OnnxGraph, *, layers: int, name: str) -> list[OnnxNode]:
    nodes = [node for node in graph.nodes if node.op_type == "GroupQueryAttention"]
    known = all(
        len(node.inputs) > _PAST_KEY and all(a.name != "rotary_interleaved" for a in node.attributes) for node in nodes
    )
    if len(nodes) != layers or not known:
        raise UnsupportedModelError(f"{name} cannot go on past its context window: its attention is of an unknown form")
    return nodes


def _angles(bundle: Bundle, tables: dict[str, OnnxTensor], names: tuple[str, str], positions: int) -> _Angles:
    cos, sin = (_Table(bundle, tables, name) for name in names)
    scale = cos.row(0)  # of YaRN and its like; the sine of nothing is 0
    rotated = scale > 0  # what pads a head has neither
    if not rotated.any():
        raise ModelError(f"{bundle.manifest.name}: {names[0]} is no table of cosines")
    scale = np.where(rotated, scale, np.float32(1))
    return _Angles(np.where(rotated, cos.row(positions) / scale, np.float32(1)), sin.row(positions) / scale)


class _Table:
    """A table beside the graph, of which single rows are read."""

    def __init__(self, bundle: Bundle, tables: dict[str, OnnxTensor], name: str) -> None:
        tensor = tables.get(name)
        if tensor is None or tensor.external is None or tensor.dtype != _FLOAT32 or len(tensor.dims) != 2:
            raise UnsupportedModelError(
                f"{bundle.manifest.name} cannot go on past its context window: its table {name[:80]!a} cannot be read"
            )
        self._path = bundle.path(tensor.external.location)
        self._offset = tensor.external.offset
        self._rows, self._columns = tensor.dims

    def row(self, number: int) -> NDArray[np.float32]:
        if number >= self._rows:
            raise ValueError(f"row {number} of {self._rows}")
        with open_file(self._path.parent, self._path.name) as file:
            file.seek(self._offset + 4 * number * self._columns)
            return np.frombuffer(file.read(4 * self._columns), "<f4").astype(np.float32)
