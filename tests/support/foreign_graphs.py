"""Small graphs as other tools make them, and folders of them: what matters is their form, and that the past counts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

VOCABULARY = 11
LAYERS, HEADS, HEAD_SIZE = 2, 2, 3
CONFIG = {
    "model_type": "gpt2",
    "architectures": ["GPT2LMHeadModel"],
    "vocab_size": VOCABULARY,
    "n_positions": 40,
    "eos_token_id": 2,
    "bos_token_id": 1,
}
BERT = {"model_type": "bert", "architectures": ["BertModel"], "vocab_size": VOCABULARY, "max_position_embeddings": 32}
_FLOAT, _HALF, _INT = TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.INT64


def table(seed: int = 0) -> NDArray[np.float32]:
    """(V, V): the logits of a token that has no past."""
    return np.random.default_rng(seed).standard_normal((VOCABULARY, VOCABULARY)).astype(np.float32)


def weights() -> NDArray[np.float32]:
    """(V,): what the past adds to the logits, times the sum of all ids."""
    return np.linspace(-0.01, 0.01, VOCABULARY).astype(np.float32)


def expected(ids: list[int]) -> NDArray[np.float32]:
    """The logits after ``ids``, (V,)."""
    total = np.float32(sum(ids) * LAYERS * HEADS * HEAD_SIZE)
    return np.asarray(table()[ids[-1]] + weights() * total, np.float32)


def decoder(
    *,
    past: bool = True,
    half: bool = False,
    past_names: str = "past_key_values.{layer}.{part}",
    present_names: str = "present.{layer}.{part}",
    logits: str = "logits",
    positions: bool = True,
    extra_input: str | None = None,
    past_shape: tuple[Any, ...] = ("batch", HEADS, "past", HEAD_SIZE),
) -> onnx.ModelProto:
    """A decoder whose past holds the ids of its tokens: ``expected`` says what it answers."""
    kind = _HALF if half else _FLOAT
    inputs = [helper.make_tensor_value_info("input_ids", _INT, ("batch", "tokens"))]
    inputs.append(helper.make_tensor_value_info("attention_mask", _INT, ("batch", "all")))
    if positions:
        inputs.append(helper.make_tensor_value_info("position_ids", _INT, ("batch", "tokens")))
    if extra_input:
        inputs.append(helper.make_tensor_value_info(extra_input, _FLOAT, ("batch", "tokens")))
    nodes = [
        helper.make_node("Cast", ["input_ids"], ["ids"], to=kind),
        helper.make_node("Unsqueeze", ["ids", "axes13"], ["column"]),
        helper.make_node("Mul", ["column", "ones"], ["new"]),
        helper.make_node("Gather", ["table", "input_ids"], ["own"]),
    ]
    outputs = [helper.make_tensor_value_info(logits, kind, ("batch", "tokens", VOCABULARY))]
    sums = []
    for layer in range(LAYERS):
        for part in ("key", "value"):
            present = present_names.format(layer=layer, part=part)
            old = past_names.format(layer=layer, part=part)
            if past:
                inputs.append(helper.make_tensor_value_info(old, kind, past_shape))
                nodes.append(helper.make_node("Concat", [old, "new"], [present], axis=2))
            else:
                nodes.append(helper.make_node("Identity", ["new"], [present]))
            outputs.append(helper.make_tensor_value_info(present, kind, ("batch", HEADS, "longer", HEAD_SIZE)))
            if part == "key":
                nodes.append(helper.make_node("ReduceSum", [present, "axes123"], [f"sum{layer}"], keepdims=1))
                sums.append(f"sum{layer}")
    nodes += [
        helper.make_node("Sum", sums, ["total4"]),
        helper.make_node("Squeeze", ["total4", "axis3"], ["total"]),
        helper.make_node("Mul", ["total", "weights"], ["of_past"]),
        helper.make_node("Add", ["own", "of_past"], [logits]),
    ]
    dtype = np.float16 if half else np.float32
    constants = {
        "axes13": np.array([1, 3]),
        "axes123": np.array([1, 2, 3]),
        "axis3": np.array([3]),
        "ones": np.ones((1, HEADS, 1, HEAD_SIZE), dtype),
        "table": table().astype(dtype),
        "weights": weights().astype(dtype),
    }
    return model(nodes, inputs, outputs, constants)


def encoder(*, output: str = "last_hidden_state", shape: tuple[Any, ...] = ("batch", "tokens", 4)) -> onnx.ModelProto:
    """A graph with an encoder's inputs; ``shape`` of its output: of two or three axes, the last one a number."""
    width = shape[-1]
    values = np.arange(VOCABULARY * width, dtype=np.float32).reshape(VOCABULARY, width)
    nodes = [helper.make_node("Gather", ["table", "input_ids"], ["rows"])]
    nodes.append(helper.make_node("Identity", ["rows"], [output]))
    if len(shape) == 2:
        nodes[-1] = helper.make_node("ReduceSum", ["rows", "axis"], [output], keepdims=0)
    inputs = [helper.make_tensor_value_info(n, _INT, ("batch", "tokens")) for n in ("input_ids", "attention_mask")]
    outputs = [helper.make_tensor_value_info(output, _FLOAT, shape)]
    return model(nodes, inputs, outputs, {"table": values, "axis": np.array([1])})


def model(nodes: list[Any], inputs: list[Any], outputs: list[Any], constants: dict[str, Any]) -> onnx.ModelProto:
    initializers = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "toy", inputs, outputs, initializers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def write_folder(folder: Path, files: dict[str, Any]) -> Path:
    """Writes graphs, objects (as JSON) and texts by their names, which may lie in sub-folders."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, onnx.ModelProto):
            path.write_bytes(content.SerializeToString())
        elif isinstance(content, str):
            path.write_text(content, encoding="utf-8")
        else:
            path.write_text(json.dumps(content), encoding="utf-8")
    return folder
