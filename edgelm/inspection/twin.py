"""A graph's twin for inspection: the same nodes and the same weights, with attention weights as further outputs.

It is made from the bytes of a checked graph, in memory, when somebody looks: bundles hold nothing for it, those made
before it existed have it too, and a normal run never pays for it. Its weights are the files of the graph itself.

What ONNX Runtime's operators give (1.32, on a CPU): GroupQueryAttention, told so by its attribute ``qk_output``, the
weights themselves, behind biases, caps, windows and softmax; MultiHeadAttention the scores with biases and masks, so a
Softmax stands behind it here. Field numbers are those of onnx.proto.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from edgelm.bundle.protobuf import BYTES, VARINT, WireReader, key

AttentionKind = Literal["self", "cross"]

_MODEL_GRAPH = key(7, BYTES)
_GRAPH_NODE, _GRAPH_OUTPUT, _GRAPH_VALUE = (key(n, BYTES) for n in (1, 12, 13))
_NODE_INPUT, _NODE_OUTPUT, _NODE_NAME, _NODE_OP_TYPE, _NODE_ATTRIBUTE = (key(n, BYTES) for n in (1, 2, 3, 4, 5))
_ATTRIBUTE_NAME, _ATTRIBUTE_INT, _ATTRIBUTE_TYPE = key(1, BYTES), key(3, VARINT), key(20, VARINT)
_VALUE_NAME, _VALUE_TYPE = key(1, BYTES), key(2, BYTES)
_TYPE_TENSOR, _TENSOR_TYPE_DTYPE = key(1, BYTES), key(1, VARINT)
_TYPE_INT = 2
_FLOAT = 1

# As the exporter names the nodes; a BART classifier's decoder half (``decoder.layer0…``) is not among them.
_NODE = re.compile(r"layer([0-9]{1,4})\.(attention|cross)")
_OPERATORS = ("GroupQueryAttention", "MultiHeadAttention")
# Both operators give what was multiplied as their fourth output.
_PLACE = 3
_AFTER_SOFTMAX = 2


class AttentionOutput(NamedTuple):
    """An output of a twin: float32 (batch, heads, queries, keys)."""

    name: str
    heads: int


@dataclass(frozen=True, slots=True)
class Twin:
    """A twin graph.

    Attributes:
        data: the serialized graph.
        outputs: layer → its attention, of each kind that the graph has.
        layers: all layers of each kind, those without an output included.
    """

    data: bytes
    outputs: dict[AttentionKind, dict[int, AttentionOutput]]
    layers: dict[AttentionKind, tuple[int, ...]]


def make_twin(graph: bytes, *, what: str, layers: Collection[int] | None = None) -> Twin:
    """The twin of one of EdgeLM's own graphs.

    Args:
        graph: the serialized graph, or an optimized copy of it.
        what: names it in errors.
        layers: whose attention to give; None: that of all.

    Raises:
        ModelError: the bytes are no ONNX graph.
    """
    maker = _Maker(graph, what, layers)
    data = maker.model()
    return Twin(data, maker.outputs, {kind: tuple(sorted(found)) for kind, found in maker.layers.items()})


@dataclass(slots=True)
class _Node:
    """What is read of a node; ``attributes``: name → (first byte of the field, its end, its number)."""

    name: str = ""
    op_type: str = ""
    outputs: int = 0
    attributes: dict[str, tuple[int, int, int]] = field(default_factory=dict)


class _Maker(WireReader):
    """Copies a model message, field by field where something changes and whole where nothing does."""

    def __init__(self, graph: bytes, what: str, layers: Collection[int] | None) -> None:
        super().__init__(graph, what=what)
        self._bytes = graph
        self._wanted = layers
        self.outputs: dict[AttentionKind, dict[int, AttentionOutput]] = {}
        self.layers: dict[AttentionKind, list[int]] = {}
        self._scores: list[str] = []

    def model(self) -> bytes:
        for number, start, end in self.fields(0, len(self._bytes)):
            if number == _MODEL_GRAPH:
                graph = _message(_MODEL_GRAPH, self._graph(start, end))
                return self._bytes[: self._begin(number, start, end)] + graph + self._bytes[end:]
        raise self.fault("no graph", len(self._bytes))

    def _graph(self, start: int, end: int) -> bytes:
        parts: list[bytes] = []
        copied = start
        for number, a, b in self.fields(start, end):
            made = self._nodes(a, b) if number == _GRAPH_NODE else b""
            if made:
                parts += (self._bytes[copied : self._begin(number, a, b)], made)
                copied = b
        parts.append(self._bytes[copied:end])
        parts += [_declared(_GRAPH_VALUE, name) for name in self._scores]
        parts += [_declared(_GRAPH_OUTPUT, output.name) for found in self.outputs.values() for output in found.values()]
        return b"".join(parts)

    def _nodes(self, start: int, end: int) -> bytes:
        """What stands in place of a node, with keys and lengths; empty where it stays."""
        node = self._node(start, end)
        match = _NODE.fullmatch(node.name)
        if match is None or node.op_type not in _OPERATORS or node.outputs > _PLACE:
            return b""
        layer, kind = int(match[1]), _KINDS[match[2]]
        self.layers.setdefault(kind, []).append(layer)
        output = AttentionOutput(f"inspected.{kind}.{layer}", node.attributes.get("num_heads", (0, 0, 0))[2])
        # Nodes of other layers are told so, too: asked for weights they round otherwise, and what is looked at must not
        # depend on what else is.
        wanted = self._wanted is None or layer in self._wanted
        if wanted:
            self.outputs.setdefault(kind, {})[layer] = output
        if node.op_type == "GroupQueryAttention":
            return _message(_GRAPH_NODE, self._with_weights(start, end, node, output.name))
        scores = f"{output.name}.scores"
        self._scores.append(scores)  # their type is said, because the library does not infer it
        changed = _message(_GRAPH_NODE, self._bytes[start:end] + _further_output(node, scores))
        return changed + (_softmax(scores, output.name) if wanted else b"")

    def _node(self, start: int, end: int) -> _Node:
        node = _Node()
        for number, a, b in self.fields(start, end):
            if number == _NODE_NAME:
                node.name = self.text(a, b)
            elif number == _NODE_OP_TYPE:
                node.op_type = self.text(a, b)
            elif number == _NODE_OUTPUT:
                node.outputs += 1
            elif number == _NODE_ATTRIBUTE:
                name, value = self._attribute(a, b)
                node.attributes[name] = (self._begin(number, a, b), b, value)
        return node

    def _attribute(self, start: int, end: int) -> tuple[str, int]:
        name, value = "", 0
        for number, a, b in self.fields(start, end):
            if number == _ATTRIBUTE_NAME:
                name = self.text(a, b)
            elif number == _ATTRIBUTE_INT:
                value = a
        return name, value

    def _with_weights(self, start: int, end: int, node: _Node, output: str) -> bytes:
        # Optimized graphs spell all attributes out, and one that stands there twice is refused.
        old_start, old_end, _ = node.attributes.get("qk_output", (end, end, 0))
        kept = self._bytes[start:old_start] + self._bytes[old_end:end]
        return kept + _further_output(node, output) + _message(_NODE_ATTRIBUTE, _integer("qk_output", _AFTER_SOFTMAX))

    def _begin(self, number: int, start: int, end: int) -> int:
        """Where the field begins whose content is [start, end): before its key and its length."""
        header = _varint(number) + _varint(end - start)
        if self._bytes[start - len(header) : start] != header:
            raise self.fault("a key or length in more bytes than it needs", start)
        return start - len(header)


_KINDS: dict[str, AttentionKind] = {"attention": "self", "cross": "cross"}


def _further_output(node: _Node, name: str) -> bytes:
    """The node's fourth output; those before it that it lacks have no name."""
    names = [""] * (_PLACE - node.outputs) + [name]
    return b"".join(_message(_NODE_OUTPUT, each.encode()) for each in names)


def _softmax(scores: str, output: str) -> bytes:
    """A node that makes weights of scores, over the last axis."""
    fields = ((_NODE_INPUT, scores), (_NODE_OUTPUT, output), (_NODE_NAME, output), (_NODE_OP_TYPE, "Softmax"))
    return _message(_GRAPH_NODE, b"".join(_message(number, text.encode()) for number, text in fields))


def _declared(number: int, name: str) -> bytes:
    """A value that is a float32 tensor."""
    tensor = _message(_TYPE_TENSOR, _varint(_TENSOR_TYPE_DTYPE) + _varint(_FLOAT))
    return _message(number, _message(_VALUE_NAME, name.encode()) + _message(_VALUE_TYPE, tensor))


def _integer(name: str, value: int) -> bytes:
    """An attribute that is a whole number."""
    number = _varint(_ATTRIBUTE_INT) + _varint(value) + _varint(_ATTRIBUTE_TYPE) + _varint(_TYPE_INT)
    return _message(_ATTRIBUTE_NAME, name.encode()) + number


def _message(number: int, content: bytes) -> bytes:
    return _varint(number) + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    parts = bytearray()
    while value > 127:
        parts.append(value & 127 | 128)
        value >>= 7
    parts.append(value)
    return bytes(parts)
