"""Makes a changed copy of a serialized ONNX graph: what a run needs otherwise than a bundle keeps it.

A copy lives in memory and reads the weights of the graph that it was made from, so nothing is stored twice. Field
numbers are those of onnx.proto.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from edgelm.bundle.protobuf import BYTES, VARINT, WireReader, key

MODEL_GRAPH = key(7, BYTES)
GRAPH_NODE, GRAPH_INITIALIZER, GRAPH_INPUT, GRAPH_OUTPUT, GRAPH_VALUE = (key(n, BYTES) for n in (1, 5, 11, 12, 13))
NODE_INPUT, NODE_OUTPUT, NODE_NAME, NODE_OP_TYPE, NODE_ATTRIBUTE = (key(n, BYTES) for n in (1, 2, 3, 4, 5))
VALUE_NAME, VALUE_TYPE, TYPE_TENSOR = key(1, BYTES), key(2, BYTES), key(1, BYTES)
TENSOR_TYPE_DTYPE = key(1, VARINT)
FLOAT, INT8 = 1, 3

_ATTRIBUTE_NAME, _ATTRIBUTE_INT, _ATTRIBUTE_TEXT, _ATTRIBUTE_TYPE = (
    key(1, BYTES),
    key(3, VARINT),
    key(4, BYTES),
    key(20, VARINT),
)
_TYPE_INT, _TYPE_TEXT = 2, 3
_TENSOR_DIM, _TENSOR_DTYPE, _TENSOR_NAME, _TENSOR_RAW = key(1, VARINT), key(2, VARINT), key(8, BYTES), key(9, BYTES)


@dataclass(slots=True)
class Node:
    """What is read of a node; ``attributes``: the whole numbers among them, 0 for others."""

    name: str = ""
    op_type: str = ""
    inputs: list[str] = field(default_factory=list)
    outputs: list[str] = field(default_factory=list)
    attributes: dict[str, int] = field(default_factory=dict)


class GraphEditor(WireReader, ABC):
    """Copies a model field by field; a subclass says what stands in place of a field of its graph.

    Args:
        graph: the serialized model.
        what: names it in errors, which are ModelErrors where the bytes are no ONNX graph.
    """

    def __init__(self, graph: bytes, *, what: str) -> None:
        super().__init__(graph, what=what)
        self._bytes = graph

    @abstractmethod
    def _replaced(self, number: int, start: int, end: int) -> bytes | None:
        """The fields in place of one of the graph's; None: it stays."""

    @abstractmethod
    def _added(self) -> bytes:
        """Further fields of the graph, behind all others."""

    def _edited(self) -> bytes:
        """The changed model."""
        parts, found = [], False
        for number, start, end in self.fields(0, len(self._bytes)):
            if number == MODEL_GRAPH:
                found = True
                parts.append(message(number, self._graph(start, end)))
            else:
                parts.append(self._copied(number, start, end))
        if not found:
            raise self.fault("no graph", len(self._bytes))
        return b"".join(parts)

    def _graph(self, start: int, end: int) -> bytes:
        parts = []
        for number, a, b in self.fields(start, end):
            made = self._replaced(number, a, b)
            parts.append(self._copied(number, a, b) if made is None else made)
        return b"".join([*parts, self._added()])

    def _copied(self, number: int, start: int, end: int) -> bytes:
        """A field as it is."""
        if number & 7 == VARINT:
            return varint(number) + varint(start)
        if number & 7 == BYTES:
            return message(number, self._bytes[start:end])
        return varint(number) + self._bytes[start:end]

    def _node(self, start: int, end: int) -> Node:
        node = Node()
        for number, a, b in self.fields(start, end):
            if number == NODE_NAME:
                node.name = self.text(a, b)
            elif number == NODE_OP_TYPE:
                node.op_type = self.text(a, b)
            elif number == NODE_INPUT:
                node.inputs.append(self.text(a, b))
            elif number == NODE_OUTPUT:
                node.outputs.append(self.text(a, b))
            elif number == NODE_ATTRIBUTE:
                name, value = self._attribute(a, b)
                node.attributes[name] = value
        return node

    def _without(self, start: int, end: int, attributes: Collection[str] = (), inputs: bool = False) -> bytes:
        """A node's fields without those attributes, and without its ``inputs``.

        Optimized graphs spell all attributes out, and one that stands there twice is refused.
        """
        parts = []
        for number, a, b in self.fields(start, end):
            if (number == NODE_INPUT and inputs) or (
                number == NODE_ATTRIBUTE and self._attribute(a, b)[0] in attributes
            ):
                continue
            parts.append(self._copied(number, a, b))
        return b"".join(parts)

    def _attribute(self, start: int, end: int) -> tuple[str, int]:
        name, value = "", 0
        for number, a, b in self.fields(start, end):
            if number == _ATTRIBUTE_NAME:
                name = self.text(a, b)
            elif number == _ATTRIBUTE_INT:
                value = a
        return name, value


def names(number: int, values: Sequence[str]) -> bytes:
    """A repeated field of strings."""
    return b"".join(message(number, value.encode()) for value in values)


def attribute(name: str, value: int | str) -> bytes:
    """A node's attribute, as a field of the node."""
    if isinstance(value, int):
        content, kind = varint(_ATTRIBUTE_INT) + varint(value), _TYPE_INT
    else:
        content, kind = message(_ATTRIBUTE_TEXT, value.encode()), _TYPE_TEXT
    named = message(_ATTRIBUTE_NAME, name.encode())
    return message(NODE_ATTRIBUTE, named + content + varint(_ATTRIBUTE_TYPE) + varint(kind))


def declared(number: int, name: str) -> bytes:
    """A value of the graph that is a float32 tensor: one of its outputs, or what lies between two nodes."""
    tensor = message(TYPE_TENSOR, varint(TENSOR_TYPE_DTYPE) + varint(FLOAT))
    return message(number, message(VALUE_NAME, name.encode()) + message(VALUE_TYPE, tensor))


def tensor(number: int, name: str, dims: Sequence[int], data: bytes) -> bytes:
    """A float32 tensor: its values one by one, little-endian."""
    sizes = b"".join(varint(_TENSOR_DIM) + varint(dim) for dim in dims)
    kind = varint(_TENSOR_DTYPE) + varint(FLOAT)
    return message(number, sizes + kind + message(_TENSOR_NAME, name.encode()) + message(_TENSOR_RAW, data))


def message(number: int, content: bytes) -> bytes:
    """A field of bytes: a string, or a message."""
    return varint(number) + varint(len(content)) + content


def varint(value: int) -> bytes:
    """A number, or a field's key."""
    parts = bytearray()
    while value > 127:
        parts.append(value & 127 | 128)
        value >>= 7
    parts.append(value)
    return bytes(parts)
