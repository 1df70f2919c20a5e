"""A decoder's table of embeddings in a file of its own, see ``edgelm.runtime.embedding``: it takes no memory there."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from edgelm.bundle.manifest import EmbeddingFile
from edgelm.runtime.embedding import EmbeddingTable, row_dtype
from edgelm_tools.graph import GraphBuilder
from edgelm_tools.matrix import Matrix
from edgelm_tools.quantize.block_parts import quantized_parts
from edgelm_tools.quantize.blockwise import ZERO_POINT

EMBEDDING_NAME = "embedding.int8"
EMBEDDING_BLOCK = 32
# What a decoder's graph takes in place of tokens then.
VECTORS = "inputs_embeds"
# Loading holds the largest weight twice more for a moment, or several of them if they are in blocks: a head in pieces
# keeps that moment small.
HEAD_PIECES = 4
BLOCK_HEAD_PIECES = 16


def embedding_beside(g: GraphBuilder, matrix: Matrix, block_size: int | None = None) -> str:
    """Writes the table beside the graph, and declares the vectors that the graph takes; returns their name."""
    store_embedding(g.path.with_name(EMBEDDING_NAME), matrix, block_size)
    return g.input(VECTORS, np.float32, ("batch", "sequence", matrix.columns))


def store_embedding(path: Path, matrix: Matrix, block_size: int | None = None) -> None:
    """Writes the table row by row: int8 steps, and scales that make the largest magnitude of a row or block 127.

    block_size: columns that share a scale; None: all. Blocks of that size that a checkpoint has are not changed.
    """
    with path.open("wb") as file:
        for blocks in quantized_parts(matrix, 8, block_size or matrix.columns):
            rows = np.zeros(len(blocks.data), row_dtype(matrix.columns, block_size))
            steps = (blocks.data ^ np.uint8(ZERO_POINT)).view(np.int8)
            rows["steps"] = steps.reshape(len(rows), -1)[:, : matrix.columns]
            rows["scales"] = blocks.scales
            file.write(rows.data)


def written_embedding(folder: Path, *, rows: int, columns: int) -> EmbeddingFile | None:
    """The table that lies in the folder of a graph, if there is one; its size tells whether it has blocks."""
    path = folder / EMBEDDING_NAME
    if not path.exists():
        return None
    whole = path.stat().st_size == rows * row_dtype(columns).itemsize
    return EmbeddingFile(path.name, rows=rows, columns=columns, block_size=None if whole else EMBEDDING_BLOCK)


def open_embedding(folder: Path, *, rows: int, columns: int) -> EmbeddingTable:
    """The same table, to be read.

    Raises:
        ModelError: there is none, or one of another size.
    """
    table = written_embedding(folder, rows=rows, columns=columns)
    block_size = None if table is None else table.block_size
    return EmbeddingTable(folder / EMBEDDING_NAME, rows=rows, columns=columns, block_size=block_size)
