"""Edits that make a tiny bundle one that must be refused: of its files' bytes, its manifest or its graph."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from support.bundles import WEIGHTS_NAME

from edgelm.bundle.manifest import MANIFEST_NAME

GraphEdit = Callable[[onnx.ModelProto], None]
FolderEdit = Callable[[Path], object]

# 2^17 × 2^17 floats.
_SIDE = 1 << 17
_FOLDED_SIDE, _FOLDINGS = 2048, 100
_OTHER_DOMAIN = "com.example"


def manifest_text(text: str) -> FolderEdit:
    """Writes the manifest anew."""
    return lambda folder: (folder / MANIFEST_NAME).write_text(text)


def manifest_edit(edit: Callable[[dict[str, Any]], object]) -> FolderEdit:
    """Changes what the manifest says."""

    def change(folder: Path) -> None:
        document = json.loads((folder / MANIFEST_NAME).read_text())
        edit(document)
        (folder / MANIFEST_NAME).write_text(json.dumps(document))

    return change


def listed_as(name: str) -> FolderEdit:
    """Has the manifest list the weights under another name."""
    return manifest_edit(lambda document: document["files"].update({name: document["files"].pop(WEIGHTS_NAME)}))


def link_weights(folder: Path) -> None:
    """Leaves a symbolic link in the place of the weights."""
    outside = folder.parent / "outside.data"
    (folder / WEIGHTS_NAME).replace(outside)
    (folder / WEIGHTS_NAME).symlink_to(outside)


def cut_weights(folder: Path) -> None:
    """Takes the last byte of the weights."""
    data = (folder / WEIGHTS_NAME).read_bytes()
    (folder / WEIGHTS_NAME).write_bytes(data[:-1])


def flip_weights(folder: Path) -> None:
    """Flips a bit in the middle of the weights."""
    data = bytearray((folder / WEIGHTS_NAME).read_bytes())
    data[len(data) // 2] ^= 1
    (folder / WEIGHTS_NAME).write_bytes(data)


def weights_at(which: int, **place: str) -> GraphEdit:
    """Says that weights lie elsewhere: ``offset``, ``length`` or ``location``, of the weights numbered so."""

    def edit(model: onnx.ModelProto) -> None:
        outside = [tensor for tensor in model.graph.initializer if tensor.external_data]
        for entry in outside[which].external_data:
            entry.value = place.get(entry.key, entry.value)

    return edit


def operator(op_type: str, domain: str = "") -> GraphEdit:
    """Puts an operator behind the graph."""

    def edit(model: onnx.ModelProto) -> None:
        model.graph.node.append(helper.make_node(op_type, ["logits"], ["further"], name="strange", domain=domain))
        if domain:
            model.opset_import.append(helper.make_opsetid(domain, 1))

    return edit


def loop(rounds: int) -> GraphEdit:
    """Puts a loop of so many rounds behind the graph."""

    def edit(model: onnx.ModelProto) -> None:
        name = helper.make_tensor_value_info
        inputs = [name("i", TensorProto.INT64, []), name("go", TensorProto.BOOL, [])]
        outputs = [name("on", TensorProto.BOOL, [])]
        body = helper.make_graph([helper.make_node("Identity", ["go"], ["on"])], "body", inputs, outputs)
        model.graph.initializer.append(numpy_helper.from_array(np.array(rounds, np.int64), "rounds"))
        model.graph.node.append(helper.make_node("Loop", ["rounds", ""], [], name="forever", body=body))

    return edit


def _scaled_logits(model: onnx.ModelProto, nodes: list[onnx.NodeProto], values: dict[str, NDArray[Any]]) -> None:
    """Multiplies the logits with ``factor``, which the nodes compute."""
    graph = model.graph
    (last,) = (node for node in graph.node if "logits" in node.output)
    last.output[0] = "plain_logits"
    graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in values.items())
    graph.node.extend([*nodes, helper.make_node("Mul", ["plain_logits", "factor"], ["logits"])])


def huge_sum(model: onnx.ModelProto) -> None:
    """Adds a column to a row, which makes 64 GiB, with operators that our own graphs have."""
    column, row = np.ones((_SIDE, 1), np.float32), np.ones((1, _SIDE), np.float32)
    nodes = [
        helper.make_node("Add", ["column", "row"], ["huge"]),
        helper.make_node("ReduceMax", ["huge"], ["factor"], keepdims=0),
    ]
    _scaled_logits(model, nodes, {"column": column, "row": row})


def huge_expand(model: onnx.ModelProto) -> None:
    """Expands one number to 64 GiB, as graphs of other tools might."""
    shape = np.array([_SIDE, _SIDE], np.int64)
    nodes = [
        helper.make_node("Expand", ["one", "sides"], ["huge"]),
        helper.make_node("ReduceMax", ["huge"], ["factor"], keepdims=0),
    ]
    _scaled_logits(model, nodes, {"one": np.ones((1, 1), np.float32), "sides": shape})


def long_folding(model: onnx.ModelProto) -> None:
    """Multiplies constants for about half a minute, which ONNX Runtime does while it loads the graph."""
    column, row = np.zeros((_FOLDED_SIDE, 1), np.float32), np.zeros((1, _FOLDED_SIDE), np.float32)
    nodes = [helper.make_node("Add", ["column", "row"], ["folded0"])]
    for index in range(_FOLDINGS):
        nodes.append(helper.make_node("MatMul", [f"folded{index}"] * 2, [f"folded{index + 1}"]))
    nodes.append(helper.make_node("ReduceMax", [f"folded{_FOLDINGS}"], ["factor"], keepdims=0))
    _scaled_logits(model, nodes, {"column": column, "row": row})


def crash(model: onnx.ModelProto) -> None:
    """Divides the least integer by −1: processors trap on it, and ONNX Runtime 1.32 does not look first."""
    nodes = [
        helper.make_node("Div", ["least", "minus"], ["whole"]),
        helper.make_node("Cast", ["whole"], ["factor"], to=1),
    ]
    _scaled_logits(model, nodes, {"least": np.array(-(1 << 63)), "minus": np.array(-1)})


def nan_weights(model: onnx.ModelProto) -> None:
    """Makes the logits no numbers."""
    _scaled_logits(model, [helper.make_node("Identity", ["none"], ["factor"])], {"none": np.array(np.nan, np.float32)})


def without_input(name: str) -> GraphEdit:
    """Has the graph no input of that name; its nodes get a constant."""

    def edit(model: onnx.ModelProto) -> None:
        (given,) = (value for value in model.graph.input if value.name == name)
        model.graph.input.remove(given)
        model.graph.initializer.append(numpy_helper.from_array(np.zeros((1, 1, 1, 16), np.float32), name))

    return edit


def of_rank_3(name: str) -> GraphEdit:
    """Takes an axis from an input's shape."""

    def edit(model: onnx.ModelProto) -> None:
        (given,) = (value for value in model.graph.input if value.name == name)
        del given.type.tensor_type.shape.dim[-1]

    return edit


def other_domain(op_type: str) -> GraphEdit:
    """Puts an operator of somebody's own library behind the graph."""
    return operator(op_type, _OTHER_DOMAIN)
