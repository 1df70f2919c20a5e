"""Blocks of weights along the input dimension share a scale (operators MatMulNBits and GatherBlockQuantized)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgelm_tools.checkpoint.base import BlockQuantized
from edgelm_tools.graph import MICROSOFT, GraphBuilder
from edgelm_tools.matrix import Matrix, Part
from edgelm_tools.quantize import blockwise
from edgelm_tools.quantize.blockwise import Blocks
from edgelm_tools.quantize.scheme import Rows, token_ids

# One block's activations are rounded together with int8 dot products.
INT8_COMPUTE = 4
EMBEDDING_BLOCK = 32


class Int8Tables:
    """The tables of a ``Scheme``: embeddings and output head in int8 blocks of 32, stored once where they are tied."""

    def head(self, g: GraphBuilder, x: str, name: str, matrix: Matrix, tied_to: str | None) -> str:
        if tied_to is None:
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

    Embeddings and output head are int8 in blocks of 32 whatever ``bits`` is: they are few and matter most.
    """

    name: str
    bits: int
    block_size: int
    wants_rotation: bool = False

    def settings(self) -> dict[str, Any]:
        return {"bits": self.bits, "block_size": self.block_size}

    def linear(self, g: GraphBuilder, x: str, name: str, matrix: Matrix, *, rows: Rows = "uneven") -> str:
        stored = _store_blocks(g, name, matrix, self.bits, self.block_size)
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


def _store_blocks(g: GraphBuilder, name: str, matrix: Matrix, bits: int, block_size: int) -> list[str]:
    """Streams the blocks to the data file; scales and zero points, a fraction of them, are kept until the end."""
    scales: list[NDArray[np.float32]] = []
    zero_points: list[NDArray[np.uint8]] = []

    def data() -> Iterator[NDArray[np.uint8]]:
        for blocks in _quantized(matrix, bits, block_size):
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


def _quantized(matrix: Matrix, bits: int, block_size: int) -> Iterator[Blocks]:
    quantize: Callable[[NDArray[np.float32], int], Blocks] = (
        blockwise.quantize_int8 if bits == 8 else blockwise.quantize_int4
    )
    carry = blockwise.carry_int8 if bits == 8 else blockwise.carry_int4
    for part in matrix.parts():
        if isinstance(part, BlockQuantized) and (part.bits, part.block_size) == (bits, block_size):
            yield carry(part)
        else:
            for rows in _only(part, matrix).float_parts():
                yield quantize(rows, block_size)


def _only(part: Part, matrix: Matrix) -> Matrix:
    return Matrix(matrix.rows, matrix.columns, lambda: iter([part]))
