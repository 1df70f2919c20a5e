"""A real bundle whose graph takes vectors: its embedding table lies in a file beside the graph."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from support.bundles import (
    GRAPH_NAME,
    WEIGHTS_NAME,
    TinyDecoder,
    decoder_model,
    move_weights,
    seal,
    write_decoder_bundle,
)

from edgelm.bundle.manifest import EmbeddingFile
from edgelm.runtime.embedding import row_dtype

TABLE_NAME = "embedding.bin"


def write_embedding_bundles(root: Path, sizes: TinyDecoder, **changes: Any) -> tuple[Path, Path]:
    """Two bundles of one model: one looks tokens up in a file, the other has the same vectors in its graph."""
    model = decoder_model(sizes)
    (embeddings,) = (tensor for tensor in model.graph.initializer if tensor.name == "embeddings")
    table = quantized(numpy_helper.to_array(embeddings))
    vectors = table["steps"].astype(np.float32) * table["scale"][:, None]
    embeddings.CopyFrom(numpy_helper.from_array(vectors, "embeddings"))
    inside = _write(root / "inside", sizes, model)
    _take_vectors(model, sizes.hidden)
    outside = _write(root / "outside", sizes, model)
    (outside / TABLE_NAME).write_bytes(table.tobytes())
    embedding = EmbeddingFile(TABLE_NAME, rows=sizes.vocab_size, columns=sizes.hidden)
    return seal(outside, **{"embedding": embedding, **changes}), inside


def quantized(vectors: np.ndarray[Any, np.dtype[np.float32]]) -> np.ndarray[Any, np.dtype[np.void]]:
    """Rows as they lie in the file."""
    table = np.zeros(len(vectors), row_dtype(vectors.shape[1]))
    table["scale"] = np.abs(vectors).max(axis=1) / 127
    table["steps"] = np.rint(vectors / table["scale"][:, None])
    return table


def _write(folder: Path, sizes: TinyDecoder, model: onnx.ModelProto) -> Path:
    write_decoder_bundle(folder, sizes)
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    move_weights(copy, folder / WEIGHTS_NAME)
    (folder / GRAPH_NAME).write_bytes(copy.SerializeToString())
    return seal(folder)


def _take_vectors(model: onnx.ModelProto, hidden: int) -> None:
    graph = model.graph
    (lookup,) = (node for node in graph.node if "embeddings" in node.input)
    (tensor,) = (tensor for tensor in graph.initializer if tensor.name == "embeddings")
    for node in graph.node:
        for place, name in enumerate(node.input):
            if name == lookup.output[0]:
                node.input[place] = "inputs_embeds"
    graph.node.remove(lookup)
    graph.initializer.remove(tensor)
    graph.input[0].CopyFrom(helper.make_tensor_value_info("inputs_embeds", TensorProto.FLOAT, ["B", "S", hidden]))
