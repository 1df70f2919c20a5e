"""Blocks of weights along the input dimension share a scale (operators MatMulNBits and GatherBlockQuantized)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from edgelm_tools.graph import MICROSOFT, GraphBuilder
from edgelm_tools.matrix import Matrix
from edgelm_tools.quantize.block_parts import quantized_parts
from edgelm_tools.quantize.blockwise import Blocks
from edgelm_tools.quantize.scheme import Calibration, Rows, token_ids
from edgelm_tools.quantize.tables import BLOCK_HEAD_PIECES, EMBEDDING_BLOCK, VECTORS, embedding_beside

# One block's activations are rounded together with int8 dot products.
INT8_COMPUTE = 4


class Int8Tables:
    """The tables of a ``Scheme``: embeddings and output head in int8 blocks of 32, stored once where they are tied."""

    def head(self, g: GraphBuilder, x: str, name: str, matrix: Matrix, tied_to: str | None) -> str:
        if not tied_to:
            _store_blocks(g, name, matrix, 8, EMBEDDING_BLOCK)
        stored = [f"{tied_to or name}.weight", f"{tied_to or name}.scales"]
        return _matmul_nbits(g, x, name, stored, matrix, 8, EMBEDDING_BLOCK)

    def lookup(self, g: GraphBuilder, name: str, matrix: Matrix, ids: str) -> tuple[str, str]:
        """Rows are dequantized when they are looked up."""
        _store_blocks(g, name, matrix, 8, EMBEDDING_BLOCK)
        width = -(-matrix.columns // EMBEDDING_BLOCK) * EMBEDDING_BLOCK
        table = g.view(f"{name}.table", f"{name}.weight", (matrix.rows, width))
        vectors = g.node(
            "GatherBlockQuantized",
            [table, ids, f"{name}.scales"],
            name=name,
            domain=MICROSOFT,
            bits=8,
            block_size=EMBEDDING_BLOCK,
            quantize_axis=1,
            gather_axis=0,
        )
        if width != matrix.columns:
            ends = [g.constant(f"{name}.{key}", [value], np.int64) for key, value in _slice_ends(matrix.columns)]
            vectors = g.node("Slice", [vectors, *ends], name=f"{name}.unpad")
        return vectors, name

    def embedding(self, g: GraphBuilder, name: str, matrix: Matrix) -> tuple[str, str]:
        return self.lookup(g, name, matrix, token_ids(g))


@dataclass(frozen=True)
class Blockwise(Int8Tables):
    """Blocks of weights along the input dimension share a scale (operators MatMulNBits and GatherBlockQuantized).

    Embeddings and output head are int8 in blocks of 32 whatever ``bits`` is: they are few and matter most. A decoder's
    int4 is rotated and calibrated, as ``Rowwise`` is, where it can be.
    """

    name: str
    bits: int
    block_size: int
    wants_rotation: bool = False
    calibration: Calibration | None = None
    calibration_tokens: int = 4096
    # Inputs are rounded in blocks as well: what stands out harms its neighbours alone, and need not be spread.
    hadamard_size: ClassVar[int] = 1

    def settings(self) -> dict[str, Any]:
        rotation = {"rotation": "hadamard"} if self.wants_rotation else {}
        return {"bits": self.bits, "block_size": self.block_size, **rotation}

    def head(self, g: GraphBuilder, x: str, name: str, matrix: Matrix, tied_to: str | None) -> str:
        whole = super().head
        if not g.takes(VECTORS):
            return whole(g, x, name, matrix, tied_to)
        pieces = enumerate(matrix.split(BLOCK_HEAD_PIECES))
        logits = [whole(g, x, f"{name}.{i}", piece, None) for i, piece in pieces]
        return g.node("Concat", logits, name=f"{name}.joined", axis=-1)

    def embedding(self, g: GraphBuilder, name: str, matrix: Matrix) -> tuple[str, str]:
        """Beside the graph; the head is a matrix of its own then."""
        return embedding_beside(g, matrix, EMBEDDING_BLOCK), ""

    def linear(self, g: GraphBuilder, x: str, name: str, matrix: Matrix, *, rows: Rows = "uneven") -> str:
        factor = self.calibration.factor(name) if self.calibration else None
        stored = _store_blocks(g, name, matrix, self.bits, self.block_size, factor)
        return _matmul_nbits(g, x, name, stored, matrix, self.bits, self.block_size)


def _slice_ends(columns: int) -> list[tuple[str, int]]:
    return [("start", 0), ("end", columns), ("axis", -1)]


def _matmul_nbits(
    g: GraphBuilder, x: str, name: str, stored: list[str], matrix: Matrix, bits: int, block_size: int
) -> str:
    return g.node(
        "MatMulNBits",
        [x, *stored],
        name=name,
        domain=MICROSOFT,
        bits=bits,
        block_size=block_size,
        K=matrix.columns,
        N=matrix.rows,
        accuracy_level=INT8_COMPUTE,
    )


def _store_blocks(
    g: GraphBuilder,
    name: str,
    matrix: Matrix,
    bits: int,
    block_size: int,
    factor: NDArray[np.float32] | None = None,
) -> list[str]:
    """Streams the blocks to the data file; scales and zero points, a fraction of them, are kept until the end."""
    scales: list[NDArray[np.float32]] = []
    zero_points: list[NDArray[np.uint8]] = []

    def data() -> Iterator[NDArray[np.uint8]]:
        for blocks in quantized_parts(matrix, bits, block_size, factor):
            scales.append(blocks.scales)
            if bits == 4:
                zero_points.append(_explicit_zero_points(blocks))
            yield blocks.data

    count = -(-matrix.columns // block_size)
    stored = [g.weight(f"{name}.weight", np.uint8, (matrix.rows, count, block_size * bits // 8), data())]
    stored.append(g.weight(f"{name}.scales", np.float32, (matrix.rows, count), scales))
    if bits == 4:
        stored.append(g.weight(f"{name}.zero_points", np.uint8, (matrix.rows, -(-count // 2)), zero_points))
    return stored


def _explicit_zero_points(blocks: Blocks) -> NDArray[np.uint8]:
    if blocks.zero_points is not None:
        return blocks.zero_points
    rows, count = blocks.scales.shape
    return np.full((rows, -(-count // 2)), 0x88, np.uint8)
