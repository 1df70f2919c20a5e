"""A graph's twin for inspection: the same nodes and the same weights, with attention weights as further outputs.

It is made from the bytes of a checked graph, in memory, when somebody looks (see ``bundle.graph_edit``): bundles hold
nothing for it, those made before it existed have it too, and a normal run never pays for it.

What ONNX Runtime's operators give (1.32, on a CPU): GroupQueryAttention, told so by its attribute ``qk_output``, the
weights themselves, behind biases, caps, windows and softmax; MultiHeadAttention the scores with biases and masks, so a
Softmax stands behind it here.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal, NamedTuple

from edgelm.bundle.graph_edit import (
    GRAPH_NODE,
    GRAPH_OUTPUT,
    GRAPH_VALUE,
    NODE_INPUT,
    NODE_NAME,
    NODE_OP_TYPE,
    NODE_OUTPUT,
    GraphEditor,
    Node,
    attribute,
    declared,
    message,
    names,
)

AttentionKind = Literal["self", "cross"]

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
    return _Maker(graph, what, layers).twin()


class _Maker(GraphEditor):
    """Makes the twin; ``twin`` is to be called once."""

    def __init__(self, graph: bytes, what: str, layers: Collection[int] | None) -> None:
        super().__init__(graph, what=what)
        self._wanted = layers
        self._outputs: dict[AttentionKind, dict[int, AttentionOutput]] = {}
        self._layers: dict[AttentionKind, list[int]] = {}
        self._scores: list[str] = []

    def twin(self) -> Twin:
        data = self._edited()
        return Twin(data, self._outputs, {kind: tuple(sorted(found)) for kind, found in self._layers.items()})

    def _added(self) -> bytes:
        parts = [declared(GRAPH_VALUE, name) for name in self._scores]
        parts += [declared(GRAPH_OUTPUT, output.name) for found in self._outputs.values() for output in found.values()]
        return b"".join(parts)

    def _replaced(self, number: int, start: int, end: int) -> bytes | None:
        if number != GRAPH_NODE:
            return None
        node = self._node(start, end)
        match = _NODE.fullmatch(node.name)
        if match is None or node.op_type not in _OPERATORS or len(node.outputs) > _PLACE:
            return None
        layer, kind = int(match[1]), _KINDS[match[2]]
        self._layers.setdefault(kind, []).append(layer)
        output = AttentionOutput(f"inspected.{kind}.{layer}", node.attributes.get("num_heads", 0))
        # Nodes of other layers are told so, too: asked for weights they round otherwise, and what is looked at must not
        # depend on what else is.
        wanted = self._wanted is None or layer in self._wanted
        if wanted:
            self._outputs.setdefault(kind, {})[layer] = output
        if node.op_type == "GroupQueryAttention":
            kept = self._without(start, end, ("qk_output",)) + _further_output(node, output.name)
            return message(GRAPH_NODE, kept + attribute("qk_output", _AFTER_SOFTMAX))
        scores = f"{output.name}.scores"
        self._scores.append(scores)  # their type is said, because the library does not infer it
        changed = message(GRAPH_NODE, self._without(start, end) + _further_output(node, scores))
        return changed + (_softmax(scores, output.name) if wanted else b"")


_KINDS: dict[str, AttentionKind] = {"attention": "self", "cross": "cross"}


def _further_output(node: Node, name: str) -> bytes:
    """The node's fourth output; those before it that it lacks have no name."""
    return names(NODE_OUTPUT, [""] * (_PLACE - len(node.outputs)) + [name])


def _softmax(scores: str, output: str) -> bytes:
    """A node that makes weights of scores, over the last axis."""
    fields = ((NODE_INPUT, scores), (NODE_OUTPUT, output), (NODE_NAME, output), (NODE_OP_TYPE, "Softmax"))
    return message(GRAPH_NODE, b"".join(message(number, text.encode()) for number, text in fields))
