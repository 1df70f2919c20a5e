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
Floats = np.ndarray[Any, np.dtype[np.float32]]


def write_embedding_bundles(
    root: Path, sizes: TinyDecoder, *, block_size: int | None = None, **changes: Any
) -> tuple[Path, Path]:
    """Two bundles of one model: one looks tokens up in a file, the other has the same vectors in its graph."""
    model = decoder_model(sizes)
    (embeddings,) = (tensor for tensor in model.graph.initializer if tensor.name == "embeddings")
    table = quantized(numpy_helper.to_array(embeddings), block_size)
    embeddings.CopyFrom(numpy_helper.from_array(vectors(table, block_size), "embeddings"))
    inside = _write(root / "inside", sizes, model)
    _take_vectors(model, sizes.hidden)
    outside = _write(root / "outside", sizes, model)
    (outside / TABLE_NAME).write_bytes(table.tobytes())
    embedding = EmbeddingFile(TABLE_NAME, rows=sizes.vocab_size, columns=sizes.hidden, block_size=block_size)
    return seal(outside, **{"embedding": embedding, **changes}), inside


def quantized(values: Floats, block_size: int | None = None) -> np.ndarray[Any, np.dtype[np.void]]:
    """Rows as they lie in the file."""
    columns = values.shape[1]
    table = np.zeros(len(values), row_dtype(columns, block_size))
    for place, start in enumerate(range(0, columns, block_size or columns)):
        block = values[:, start : start + (block_size or columns)]
        table["scales"][:, place] = np.abs(block).max(axis=1) / 127
        table["steps"][:, start : start + block.shape[1]] = np.rint(block / table["scales"][:, place, None])
    return table


def vectors(table: np.ndarray[Any, np.dtype[np.void]], block_size: int | None = None) -> Floats:
    """What the rows stand for."""
    columns = table["steps"].shape[1]
    scales = np.repeat(table["scales"], block_size or columns, axis=1)[:, :columns]
    values: Floats = table["steps"].astype(np.float32) * scales
    return values


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
