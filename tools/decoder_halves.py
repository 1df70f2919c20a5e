"""A decoder as two graphs that are run in turn: what makes its hidden states, and what makes logits of them.

A text's hidden states are small, its logits are not. So the logits of two decoders are compared without one decoder
beside the other, and without the logits of a whole text: the first halves are run in turn, and then the second ones,
which have few of the weights.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edgelm.bundle.progress import Progress
from edgelm.errors import ModelError
from edgelm.runtime.cores import available_cores
from edgelm.runtime.decoder import Decoder
from edgelm.runtime.session import Session, give_back_freed_memory
from edgelm_tools.known_logits import LOGITS, StatesOfTexts

_INDEX, _STATES = "logit_index", "states"


@dataclass(frozen=True, slots=True)
class Halves:
    """Serialized graphs.

    Attributes:
        first: the decoder, whose ``logits (rows, width)`` are hidden states.
        second: ``states (rows, width)`` → ``logits (rows, vocab)``.
    """

    first: bytes
    second: bytes


def split_decoder(graph: bytes) -> Halves:
    """Cuts a decoder where it takes the rows of the tokens whose logits are wanted (see ``take_rows``).

    Args:
        graph: one of EdgeLM's own decoders, serialized; its weights are in a file beside it.

    Raises:
        ModelError: it takes no such rows, or reads more behind that than them.
    """
    model = onnx.load_model_from_string(graph)
    widths = _taken(model.graph)
    behind = _behind(model.graph.node, widths)
    made = {name for node in behind for name in node.output if name}
    weights = {tensor.name for tensor in model.graph.initializer}
    outside = {name for node in behind for name in node.input if name} - made - weights - widths.keys()
    if not widths or outside:
        raise ModelError(f"the decoder cannot be cut in two: {sorted(outside) or 'it takes no rows'}")
    width = sum(widths.values())
    states = helper.make_tensor_value_info(_STATES, TensorProto.FLOAT, ("rows", width))
    hidden = helper.make_tensor_value_info(LOGITS, TensorProto.FLOAT, ("rows", width))
    outputs = [hidden if value.name == LOGITS else value for value in model.graph.output]
    logits = [value for value in model.graph.output if value.name == LOGITS]
    before = [node for node in model.graph.node if not made.intersection(node.output)]
    shapes = {"states.flat": [-1, width], "states.rows": [1, -1, width], "states.widths": list(widths.values())}
    numbers = [numpy_helper.from_array(np.array(values, np.int64), name) for name, values in shapes.items()]
    joining = [
        helper.make_node("Concat", list(widths), ["states.joined"], axis=2),
        helper.make_node("Reshape", ["states.joined", "states.flat"], [LOGITS]),
    ]
    parting = [
        helper.make_node("Reshape", [_STATES, "states.rows"], ["states.together"]),
        helper.make_node("Split", ["states.together", "states.widths"], list(widths), axis=2),
    ]
    return Halves(
        _part(model, [*before, *joining], model.graph.input, outputs, numbers),
        _part(model, [*parting, *behind], [states], logits, numbers),
    )


def hidden_states(decoder: Decoder, texts: Iterable[Sequence[int]], progress: Progress) -> StatesOfTexts:
    """The hidden states of texts: token ids, (T,) each → what the second half reads, (T, width).

    Args:
        decoder: over the first half of one; it is rewound for each text.
        texts: what it is to read.
        progress: told of the tokens.
    """
    found = {}
    for ids in texts:
        decoder.rewind(0)
        states = np.empty((len(ids), decoder.vocab_size), np.float32)
        start = 0
        for part in decoder.all_logits(ids):
            states[start : start + len(part)] = part
            start += len(part)
            progress.advance(len(part))
        found[tuple(ids)] = {_STATES: states}
    return found


@contextmanager
def open_second_half(path: Path, half: bytes) -> Iterator[Session]:
    """The second half of the decoder at ``path``, as what can be run."""
    with closing(Session(path, threads=available_cores(), planning=False, graph=half)) as session:
        yield session
    give_back_freed_memory()


def _taken(graph: onnx.GraphProto) -> dict[str, int]:
    """The rows that are taken, (1, rows, width), and how wide they are."""
    reshaped = {node.output[0]: node.input[1] for node in graph.node if node.op_type == "Reshape"}
    shapes = {tensor.name: tensor for tensor in graph.initializer}
    return {
        node.output[0]: int(numpy_helper.to_array(shapes[reshaped[node.input[0]]])[-1])
        for node in graph.node
        if _INDEX in node.input
    }


def _behind(nodes: Iterable[onnx.NodeProto], names: Iterable[str]) -> list[onnx.NodeProto]:
    """The nodes that read those values, or what was made of them; nodes come in the order in which they are run."""
    reached, found = set(names), []
    for node in nodes:
        if reached.intersection(node.input):
            reached.update(node.output)
            found.append(node)
    return found


def _part(
    model: onnx.ModelProto,
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[onnx.ValueInfoProto],
    outputs: Sequence[onnx.ValueInfoProto],
    numbers: Sequence[onnx.TensorProto],
) -> bytes:
    """A model of those nodes, with the weights that they read."""
    read = {name for node in nodes for name in node.input}
    weights = [tensor for tensor in (*model.graph.initializer, *numbers) if tensor.name in read]
    graph = helper.make_graph(nodes, model.graph.name, inputs, outputs, weights)
    made = helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)
    return bytes(made.SerializeToString())
