"""An int8 KV cache: a decoder's graph told to keep keys and values in 8 bits, and the scales that it needs for that.

Bundles keep one graph, for float32, and a scale for each channel: the largest value that keys or values had there over
a calibration text, in parts of 127. The changed graph is made in memory when a model is loaded (see
``bundle.graph_edit``). ONNX Runtime's GroupQueryAttention rounds new keys and values to ``round(x / scale)``, within
-128 and 127, and multiplies with them as they lie.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgelm.bundle.bundle import Bundle
from edgelm.bundle.graph_check import MAX_GRAPH_BYTES
from edgelm.bundle.graph_edit import (
    GRAPH_INITIALIZER,
    GRAPH_INPUT,
    GRAPH_NODE,
    GRAPH_OUTPUT,
    GRAPH_VALUE,
    INT8,
    NODE_INPUT,
    TENSOR_TYPE_DTYPE,
    TYPE_TENSOR,
    VALUE_NAME,
    VALUE_TYPE,
    GraphEditor,
    attribute,
    message,
    names,
    tensor,
    varint,
)
from edgelm.bundle.regular_file import read_file
from edgelm.errors import ModelError
from edgelm.runtime.kv_cache_types import check_kv_cache as check_kv_cache  # others look for it here
from edgelm.runtime.kv_cache_types import int8_cache_fault as int8_cache_fault

Scales = NDArray[np.float32]
"""(layers, 2, kv_heads, head_size): of keys and of values, of each channel."""

PAST, PRESENT = "past_key_values.", "present."
_PARTS = ("key", "value")
# GroupQueryAttention's inputs: the past, and the scales of keys and values, which stand behind all others.
_PAST_KEY, _SCALE = 3, 12
_ATTRIBUTES: Mapping[str, int | str] = {
    "kv_cache_bit_width": 8,
    "k_quant_type": "PER_CHANNEL",
    "v_quant_type": "PER_CHANNEL",
}


def cache_scales(bundle: Bundle) -> Scales:
    """The scales of a bundle's int8 KV cache.

    Raises:
        UnsupportedModelError: see ``check_kv_cache``.
        ModelError: the scales are of another size, or not all of them finite and above 0.
    """
    manifest, kv = bundle.manifest, bundle.manifest.kv
    check_kv_cache(manifest, "int8")
    if kv is None or kv.scales is None:
        raise ValueError(f"{manifest.name} has no scales, and passed for a model with scales")
    shape = (kv.layers, len(_PARTS), kv.kv_heads, kv.head_size)
    data = bundle.read_bytes(kv.scales, manifest.files[kv.scales].size)
    if len(data) != kv.scales_bytes():
        raise ModelError(f"{kv.scales}: {len(data)} bytes, not the {kv.scales_bytes()} of scales of shape {shape}")
    scales = np.frombuffer(data, "<f4").astype(np.float32).reshape(shape)
    sound = np.isfinite(scales) & (scales > 0)
    if not sound.all():
        place = tuple(np.argwhere(~sound)[0].tolist())
        raise ModelError(f"{kv.scales}: scale {place} is {scales[place]}, not a finite number above 0")
    return scales


def load_int8_cache_graph(path: Path, scales: Scales) -> bytes:
    """The graph in a file, a bundle's or an optimized copy of it, with an int8 KV cache.

    Raises:
        ModelError: see ``int8_cache_graph``; or the file cannot be read.
    """
    return int8_cache_graph(read_file(path.parent, path.name, limit=MAX_GRAPH_BYTES), scales, what=path.name)


def int8_cache_graph(graph: bytes, scales: Scales, *, what: str) -> bytes:
    """The same graph with an int8 KV cache.

    Args:
        graph: one of EdgeLM's own decoders, serialized, or an optimized copy of it.
        scales: of its layers.
        what: names it in errors.

    Raises:
        ModelError: the bytes are no ONNX graph, or its attention is not that of so many layers.
    """
    return _Maker(graph, scales, what).graph()


def scales_by_input(scales: Scales) -> dict[str, NDArray[np.float32]]:
    """(kv_heads, head_size) by the names of the graph's inputs."""
    return {
        f"{PAST}{layer}.{part}": scales[layer, place]
        for layer in range(len(scales))
        for place, part in enumerate(_PARTS)
    }


def quantized(values: NDArray[np.float32], scale: NDArray[np.float32]) -> NDArray[np.int8]:
    """What the cache holds of values, (…, tokens, head_size); ``scale``: (…, 1, head_size)."""
    rounded: NDArray[np.int8] = np.clip(np.rint(values / scale), -128, 127).astype(np.int8)
    return rounded


class _Maker(GraphEditor):
    """Makes the graph; ``graph`` is to be called once."""

    def __init__(self, graph: bytes, scales: Scales, what: str) -> None:
        super().__init__(graph, what=what)
        self._scales = {name: scale.astype("<f4") for name, scale in scales_by_input(scales).items()}
        self._values = {*self._scales, *(PRESENT + name.removeprefix(PAST) for name in self._scales)}
        self._used: set[str] = set()

    def graph(self) -> bytes:
        made = self._edited()
        missing = sorted(self._scales.keys() - self._used)
        if missing:
            raise ModelError(f"{self._what}: no attention that EdgeLM knows keeps {missing[0]}")
        return made

    def _added(self) -> bytes:
        return b"".join(
            tensor(GRAPH_INITIALIZER, _scale_name(name), (1, len(scale), 1, scale.shape[1]), scale.tobytes())
            for name, scale in self._scales.items()
        )

    def _replaced(self, number: int, start: int, end: int) -> bytes | None:
        if number == GRAPH_NODE:
            return self._attention(start, end)
        if number in (GRAPH_INPUT, GRAPH_OUTPUT, GRAPH_VALUE) and self._value_name(start, end) in self._values:
            return message(number, self._retyped(start, end))
        return None

    def _attention(self, start: int, end: int) -> bytes | None:
        node = self._node(start, end)
        if node.op_type != "GroupQueryAttention":
            return None
        past = node.inputs[_PAST_KEY : _PAST_KEY + len(_PARTS)]
        if not self._scales.keys() >= set(past):
            raise ModelError(f"{self._what}: node {node.name[:80]!a} keeps its keys and values elsewhere")
        self._used.update(past)
        before = [*node.inputs, *[""] * _SCALE][:_SCALE]
        inputs = [*before, *map(_scale_name, past), *node.inputs[_SCALE + len(past) :]]
        changed = self._without(start, end, _ATTRIBUTES, inputs=True) + names(NODE_INPUT, inputs)
        return message(GRAPH_NODE, changed + b"".join(attribute(*pair) for pair in _ATTRIBUTES.items()))

    def _value_name(self, start: int, end: int) -> str:
        return next((self.text(a, b) for number, a, b in self.fields(start, end) if number == VALUE_NAME), "")

    def _retyped(self, start: int, end: int, path: tuple[int, ...] = (VALUE_TYPE, TYPE_TENSOR)) -> bytes:
        """A value with elements of 8 bits; ``path``: the fields that lead to what says so."""
        parts = []
        for number, a, b in self.fields(start, end):
            if path and number == path[0]:
                parts.append(message(number, self._retyped(a, b, path[1:])))
            elif not path and number == TENSOR_TYPE_DTYPE:
                parts.append(varint(number) + varint(INT8))
            else:
                parts.append(self._copied(number, a, b))
        return b"".join(parts)


def _scale_name(past: str) -> str:
    return f"{past}.scale"
