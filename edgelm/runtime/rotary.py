"""Turns keys back to earlier positions: rotary embeddings (arxiv.org/abs/2104.09864) can be undone by a fixed angle.

The cache holds keys as they were rotated; those of an int8 cache are rounded anew when they are turned. The angles are
those of the graph's own tables, so whatever scaling a model has is in them; two rows of each are read, none is kept.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgelm.bundle.bundle import Bundle
from edgelm.bundle.manifest import NATIVE_LAYOUT
from edgelm.bundle.onnx_model import OnnxGraph, OnnxTensor
from edgelm.bundle.onnx_reader import read_model
from edgelm.bundle.regular_file import open_file, read_file
from edgelm.config import KVCacheType
from edgelm.errors import ModelError, UnsupportedModelError
from edgelm.runtime.int8_cache import cache_scales, quantized, scales_by_input

MAX_GRAPH_BYTES = 1 << 31
# Places among GroupQueryAttention's inputs.
_PAST_KEY, _COS, _SIN = 3, 7, 8
_FLOAT32 = 1
_ATTENTION = "GroupQueryAttention"


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
        ModelError: its tables of positions end before.
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
        _check_attention(graph, layers=bundle.manifest.kv.layers if bundle.manifest.kv else 0, name=name)
        self._angles = _angles(graph, bundle.path, positions, name)
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


def rotary_angles(graph: OnnxGraph, folder: Path) -> dict[str, NDArray[np.float32]]:
    """What each position turns the keys of a layer by, further than the one before it: (pairs,) radians each.

    Args:
        graph: one of EdgeLM's own decoders.
        folder: where its tables are.

    Returns:
        By the input's name; channel i is turned together with channel i + the number of pairs. A layer that knows no
        positions is left out.

    Raises:
        UnsupportedModelError: a table cannot be read.
    """
    found = _angles(graph, folder.joinpath, 1, graph.name)
    return {name: np.arctan2(angles.sin, angles.cos) for name, angles in found.items()}


def _turn(keys: NDArray[np.float32], angles: _Angles) -> None:
    half = len(angles.cos)
    first, second = keys[..., :half], keys[..., half : 2 * half]
    turned = first * angles.cos + second * angles.sin
    second[:] = second * angles.cos - first * angles.sin
    first[:] = turned


def _check_attention(graph: OnnxGraph, *, layers: int, name: str) -> None:
    nodes = [node for node in graph.nodes if node.op_type == _ATTENTION]
    known = all(
        len(node.inputs) > _PAST_KEY and all(a.name != "rotary_interleaved" for a in node.attributes) for node in nodes
    )
    if len(nodes) != layers or not known:
        raise UnsupportedModelError(f"{name} cannot go on past its context window: its attention is of an unknown form")


def _angles(graph: OnnxGraph, path_of: Callable[[str], Path], positions: int, model: str) -> dict[str, _Angles]:
    """What so many positions turn the keys of each layer by, by the input's name; ``model`` is for errors."""
    tables = {tensor.name: tensor for tensor in graph.initializers}
    read: dict[tuple[str, str], _Angles] = {}
    found: dict[str, _Angles] = {}
    for node in graph.nodes:
        pair = node.inputs[_COS : _SIN + 1] if node.op_type == _ATTENTION else ()
        if len(pair) == 2 and all(pair):  # a layer without knows no positions, or biases by distance
            names = (pair[0], pair[1])
            if names not in read:
                cos, sin = (_Table(tables.get(name), path_of, model) for name in names)
                read[names] = _read_angles(cos, sin, positions)
            found[node.inputs[_PAST_KEY]] = read[names]
    return found


def _read_angles(cos: _Table, sin: _Table, positions: int) -> _Angles:
    scale = cos.row(0)  # of YaRN and its like; the sine of nothing is 0
    rotated = scale > 0  # what pads a head has neither
    if not rotated.any():
        raise ModelError(f"{cos.name} is no table of cosines")
    scale = np.where(rotated, scale, np.float32(1))
    return _Angles(np.where(rotated, cos.row(positions) / scale, np.float32(1)), sin.row(positions) / scale)


class _Table:
    """A table beside the graph, of which single rows are read."""

    def __init__(self, tensor: OnnxTensor | None, path_of: Callable[[str], Path], model: str) -> None:
        if tensor is None or tensor.external is None or tensor.dtype != _FLOAT32 or len(tensor.dims) != 2:
            raise UnsupportedModelError(f"{model} cannot turn its keys: a table of its positions cannot be read")
        self.name = f"{model}: {tensor.name[:80]!a}"
        self._path = path_of(tensor.external.location)
        self._offset = tensor.external.offset
        self._rows, self._columns = tensor.dims

    def row(self, number: int) -> NDArray[np.float32]:
        if number >= self._rows:
            raise ModelError(f"{self.name} ends at position {self._rows - 1}, before {number}: the window is longer")
        with open_file(self._path.parent, self._path.name) as file:
            file.seek(self._offset + 4 * number * self._columns)
            return np.frombuffer(file.read(4 * self._columns), "<f4").astype(np.float32)
