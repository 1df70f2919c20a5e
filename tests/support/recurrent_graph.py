"""A tiny encoder-decoder with a recurrent decoder, its weights random: state ← tanh(state · U + embedding + position).

The decoder sees its source through plain cross-attention; logits are linear in what it saw and in the state.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from edgelm.bundle.manifest import Manifest, RecurrentState, Source

VOCAB_SIZE, HEADS, HEAD_SIZE, SIZE, CONTEXT = 32, 2, 4, 8, 24
END, START = 2, 1


@dataclass(frozen=True)
class RecurrentWeights:
    """All of them, and the model in NumPy."""

    embedding: NDArray[np.float32]
    positions: NDArray[np.float32]
    recurrent: NDArray[np.float32]
    output: NDArray[np.float32]

    @classmethod
    def random(cls, seed: int = 0) -> RecurrentWeights:
        random = np.random.default_rng(seed)
        shapes = ((VOCAB_SIZE, SIZE), (CONTEXT, SIZE), (SIZE, SIZE), (SIZE, VOCAB_SIZE))
        return cls(*(random.normal(0, 1, shape).astype(np.float32) for shape in shapes))

    def logits(self, source: list[int], tokens: list[int]) -> NDArray[np.float32]:
        """After the last of the tokens: (V,)."""
        keys = self.embedding[source].reshape(-1, HEADS, HEAD_SIZE)
        state = np.zeros(SIZE, np.float32)
        for position, token in enumerate(tokens):
            state = np.tanh(state @ self.recurrent + self.embedding[token] + self.positions[position])
        query = state.reshape(HEADS, HEAD_SIZE)
        scores = np.einsum("hd,lhd->hl", query, keys) / np.sqrt(HEAD_SIZE)
        weights = np.exp(scores - scores.max(axis=1, keepdims=True))
        weights /= weights.sum(axis=1, keepdims=True)
        seen = np.einsum("hl,lhd->hd", weights, keys).reshape(SIZE)
        logits: NDArray[np.float32] = (seen + state) @ self.output
        return logits


def write_recurrent_graphs(folder: Path, weights: RecurrentWeights) -> None:
    """Writes ``encoder.onnx`` and ``decoder.onnx``."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "encoder.onnx").write_bytes(_encoder(weights))
    (folder / "decoder.onnx").write_bytes(_decoder(weights))


def recurrent_manifest() -> Manifest:
    """The manifest of a bundle of these graphs, without its files."""
    return Manifest(
        name="recurrent",
        architecture="bergamot",
        family="encoder-decoder",
        tasks=("translation",),
        graphs={"encoder": "encoder.onnx", "decoder": "decoder.onnx"},
        context_length=CONTEXT,
        vocab_size=VOCAB_SIZE,
        kv=None,
        state=RecurrentState(1, SIZE),
        bos_token_id=None,
        eos_token_id=(END,),
        decoder_start_token_id=START,
        quantization={"scheme": "fp32"},
        files={},
        source=Source("test:recurrent"),
    )


def _encoder(weights: RecurrentWeights) -> bytes:
    """Keys and values are both the embeddings, split into heads."""
    nodes = [
        helper.make_node("Gather", ["embedding", "input_ids"], ["embedded"]),
        helper.make_node("Reshape", ["embedded", "heads"], ["split"]),
        helper.make_node("Transpose", ["split"], ["cross_key_values.0.key"], perm=[0, 2, 1, 3]),
        helper.make_node("Identity", ["cross_key_values.0.key"], ["cross_key_values.0.value"]),
    ]
    inputs = [_value(name, TensorProto.INT64, "batch", "sequence") for name in ("input_ids", "attention_mask")]
    outputs = [_value(name, TensorProto.FLOAT, "batch", HEADS, "source", HEAD_SIZE) for name in _CROSS]
    heads = numpy_helper.from_array(np.array([0, 0, HEADS, HEAD_SIZE]), "heads")
    return _model(nodes, inputs, outputs, [numpy_helper.from_array(weights.embedding, "embedding"), heads])


def _decoder(weights: RecurrentWeights) -> bytes:
    nodes = [
        helper.make_node("Gather", ["embedding", "input_ids"], ["embedded"]),
        helper.make_node("Gather", ["positions", "position_ids"], ["positioned"]),
        helper.make_node("Add", ["embedded", "positioned"], ["new"]),
        helper.make_node("Squeeze", ["new", "one"], ["flat"]),
        helper.make_node("MatMul", ["state.0", "recurrent"], ["kept"]),
        helper.make_node("Add", ["kept", "flat"], ["sum"]),
        helper.make_node("Tanh", ["sum"], ["next_state.0"]),
        helper.make_node("Unsqueeze", ["next_state.0", "one"], ["query"]),
        helper.make_node(
            "MultiHeadAttention",
            ["query", *_CROSS, "", "encoder_attention_mask"],
            ["seen"],
            domain="com.microsoft",
            num_heads=HEADS,
        ),
        helper.make_node("Squeeze", ["seen", "one"], ["seen_flat"]),
        helper.make_node("Add", ["seen_flat", "next_state.0"], ["all"]),
        helper.make_node("MatMul", ["all", "output"], ["logits"]),
    ]
    inputs = [
        *(_value(name, TensorProto.INT64, "batch", 1) for name in ("input_ids", "position_ids")),
        _value("encoder_attention_mask", TensorProto.INT32, "batch", "source"),
        *(_value(name, TensorProto.FLOAT, "batch", HEADS, "source", HEAD_SIZE) for name in _CROSS),
        _value("state.0", TensorProto.FLOAT, "batch", SIZE),
    ]
    outputs = [
        _value("logits", TensorProto.FLOAT, "batch", VOCAB_SIZE),
        _value("next_state.0", TensorProto.FLOAT, "batch", SIZE),
    ]
    names = ("embedding", "positions", "recurrent", "output")
    tensors = [numpy_helper.from_array(getattr(weights, name), name) for name in names]
    return _model(nodes, inputs, outputs, [*tensors, numpy_helper.from_array(np.array([1]), "one")])


_CROSS = ("cross_key_values.0.key", "cross_key_values.0.value")


def _value(name: str, kind: int, *dims: int | str) -> Any:
    return helper.make_tensor_value_info(name, kind, dims)


def _model(nodes: list[Any], inputs: list[Any], outputs: list[Any], tensors: list[Any]) -> bytes:
    graph = helper.make_graph(nodes, "graph", inputs, outputs, tensors)
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    data: bytes = helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString()
    return data
