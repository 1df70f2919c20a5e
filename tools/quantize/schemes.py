"""How a linear layer and an embedding become nodes and stored weights: one class a scheme.

The architectures call ``linear``, ``head`` and ``embedding`` and know nothing about bits; a scheme knows nothing about
transformers. All take activations of shape (batch, sequence, columns) and give (batch, sequence,
outputs), float32.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from edgelm.runtime.embedding import row_dtype
from edgelm_tools.checkpoint.base import BlockQuantized
from edgelm_tools.graph import MICROSOFT, GraphBuilder
from edgelm_tools.matrix import Matrix, Part
from edgelm_tools.quantize import blockwise
from edgelm_tools.quantize.blockwise import Blocks
from edgelm_tools.quantize.gptq import round_to_inputs
from edgelm_tools.quantize.rotation import hadamard, largest_hadamard
from edgelm_tools.quantize.rowwise import round_rows, row_scales

# One block's activations are rounded together with int8 dot products.
INT8_COMPUTE = 4
EMBEDDING_BLOCK = 32
EMBEDDING_NAME = "embedding.int8"
HADAMARD_SIZE = 128
HEAD_PIECES = 4
# Far below the square of any activation: a row of zeros stays one.
_NO_ROW = 1e-20

Rows = Literal["normed", "uneven", "heavy-tailed"]
"""What the rows of an input are like: behind a norm, and so all of one magnitude; of any magnitude; or that with rare,
very large values in them (a gated MLP's product)."""


class Calibration(Protocol):
    """What is known of the inputs of each linear layer."""

    def factor(self, name: str) -> NDArray[np.float32]:
        """``gptq.error_factor`` of the inputs of the linear layer of that name: (K, K) float32."""
        ...


class Scheme(Protocol):
    """A way to store weights and to multiply with them."""

    @property
    def name(self) -> str:
        """As users write it."""
        ...

    @property
    def wants_rotation(self) -> bool:
        """Whether the residual stream should be rotated, where the architecture allows it."""
        ...

    def settings(self) -> dict[str, Any]:
        """What the manifest says about the scheme, beside its name."""
        ...

    def linear(self, g: GraphBuilder, x: str, name: str, matrix: Matrix, *, rows: Rows = "uneven") -> str:
        """x (…, K) → (…, N)."""
        ...

    def head(self, g: GraphBuilder, x: str, name: str, matrix: Matrix, tied_to: str | None) -> str:
        """The output head; ``tied_to`` is what ``embedding`` returned if it shares that weight."""
        ...

    def embedding(self, g: GraphBuilder, name: str, matrix: Matrix) -> tuple[str, str]:
        """Declares the graph's input of tokens; returns (vectors (B, S, K) float32, a name for ``head(tied_to=…)``)."""
        ...


@dataclass(frozen=True)
class Float32:
    """Weights as they are: the yardstick of the other schemes."""

    name: str = "fp32"
    wants_rotation: bool = False

    def settings(self) -> dict[str, Any]:
        return {"bits": 32}

    def linear(self, g: GraphBuilder, x: str, name: str, matrix: Matrix, *, rows: Rows = "uneven") -> str:
        weight = g.weight(f"{name}.weight", np.float32, (matrix.rows, matrix.columns), matrix.float_parts())
        return _multiply_transposed(g, x, weight, name)

    def head(self, g: GraphBuilder, x: str, name: str, matrix: Matrix, tied_to: str | None) -> str:
        return _multiply_transposed(g, x, tied_to, name) if tied_to else self.linear(g, x, name, matrix)

    def embedding(self, g: GraphBuilder, name: str, matrix: Matrix) -> tuple[str, str]:
        weight = g.weight(f"{name}.weight", np.float32, (matrix.rows, matrix.columns), matrix.float_parts())
        return g.node("Gather", [weight, token_ids(g)], name=name, axis=0), weight


def _multiply_transposed(g: GraphBuilder, x: str, weight: str, name: str) -> str:
    return g.node("FusedMatMul", [x, weight], name=name, domain=MICROSOFT, transB=1)


@dataclass(frozen=True)
class Blockwise:
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

    def head(self, g: GraphBuilder, x: str, name: str, matrix: Matrix, tied_to: str | None) -> str:
        return int8_head(g, x, name, matrix, tied_to)

    def embedding(self, g: GraphBuilder, name: str, matrix: Matrix) -> tuple[str, str]:
        return int8_embedding(g, name, matrix)


def token_ids(g: GraphBuilder) -> str:
    """Declares the usual input of tokens, int64 (B, S)."""
    return g.input("input_ids", np.int64, ("batch", "sequence"))


def store_embedding(path: Path, matrix: Matrix) -> None:
    """Writes the table row by row: int8 steps, and the scale that makes the largest magnitude of the row 127."""
    with path.open("wb") as file:
        for part in matrix.float_parts():
            rows = np.zeros(len(part), row_dtype(matrix.columns))
            rows["scale"] = np.abs(part).max(axis=1) / np.float32(127)
            rows["steps"] = np.rint(part * blockwise.reciprocal(rows["scale"])[:, None])
            file.write(rows.data)


def int8_embedding(g: GraphBuilder, name: str, matrix: Matrix) -> tuple[str, str]:
    """Rows of an int8 table in blocks of 32, dequantized when they are looked up."""
    _store_blocks(g, name, matrix, 8, EMBEDDING_BLOCK)
    width = -(-matrix.columns // EMBEDDING_BLOCK) * EMBEDDING_BLOCK
    table = g.view(f"{name}.table", f"{name}.weight", (matrix.rows, width))
    vectors = g.node(
        "GatherBlockQuantized",
        [table, token_ids(g), f"{name}.scales"],
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


def _slice_ends(columns: int) -> list[tuple[str, int]]:
    return [("start", 0), ("end", columns), ("axis", 2)]


def int8_head(g: GraphBuilder, x: str, name: str, matrix: Matrix, tied_to: str | None) -> str:
    """The output head in int8 blocks of 32; shares the embedding's table where the two are tied."""
    if tied_to is None:
        _store_blocks(g, name, matrix, 8, EMBEDDING_BLOCK)
    stored = [f"{tied_to or name}.weight", f"{tied_to or name}.scales"]
    return _matmul_nbits(g, x, name, stored, matrix, 8, EMBEDDING_BLOCK)


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


@dataclass(frozen=True)
class Rowwise:
    """int8 with one scale for all activations of a run and one for each output channel of the weights.

    One integer matrix product serves any number of rows at the machine's full int8 speed. A single scale suits values
    without outliers: all rows are brought to one magnitude, the residual stream is rotated (``rotation.py``), and a
    heavy-tailed input is rotated here, by a small Hadamard matrix just before it is rounded.
    """

    name: str = "int8"
    wants_rotation: bool = True
    hadamard_size: int = HADAMARD_SIZE
    calibration: Calibration | None = None

    def settings(self) -> dict[str, Any]:
        return {"bits": 8, "granularity": "row", "rotation": "hadamard"}

    def linear(self, g: GraphBuilder, x: str, name: str, matrix: Matrix, *, rows: Rows = "uneven") -> str:
        x, magnitude = (x, None) if rows == "normed" else _rows_of_one_magnitude(g, x, name, matrix.columns)
        spread = _spread(matrix, self.hadamard_size, rows)
        x = _spread_out(g, x, name, matrix.columns, spread)
        factor = self.calibration.factor(name) if self.calibration else None
        weight, scales = _store_rowwise(g, name, matrix, spread=spread, factor=factor)
        product = _integer_product(g, x, name, weight, scales)
        return product if magnitude is None else g.node("Div", [product, magnitude], name=f"{name}.rescale")

    def head(self, g: GraphBuilder, x: str, name: str, matrix: Matrix, tied_to: str | None) -> str:
        if tied_to is not None:
            return int8_head(g, x, name, matrix, tied_to)
        # Loading holds the largest weight twice more for a moment: a head in pieces keeps that moment small.
        pieces = matrix.split(HEAD_PIECES)
        logits = [self.linear(g, x, f"{name}.{i}", piece, rows="normed") for i, piece in enumerate(pieces)]
        return g.node("Concat", logits, name=f"{name}.joined", axis=-1)

    def embedding(self, g: GraphBuilder, name: str, matrix: Matrix) -> tuple[str, str]:
        """The table goes into a file of its own, see ``edgelm.runtime.embedding``: it takes no memory there."""
        store_embedding(g.path.with_name(EMBEDDING_NAME), matrix)
        return g.input("inputs_embeds", np.float32, ("batch", "sequence", matrix.columns)), ""


@dataclass(frozen=True)
class DynamicInt8:
    """ONNX Runtime's classic dynamic quantization: one scale for a whole activation tensor. Fast, and coarse."""

    name: str = "dynamic-int8"
    wants_rotation: bool = False

    def settings(self) -> dict[str, Any]:
        return {"bits": 8, "granularity": "tensor"}

    def linear(self, g: GraphBuilder, x: str, name: str, matrix: Matrix, *, rows: Rows = "uneven") -> str:
        weight, scales = _store_rowwise(g, name, matrix)
        return _integer_product(g, x, name, weight, scales)

    def head(self, g: GraphBuilder, x: str, name: str, matrix: Matrix, tied_to: str | None) -> str:
        return int8_head(g, x, name, matrix, tied_to)

    def embedding(self, g: GraphBuilder, name: str, matrix: Matrix) -> tuple[str, str]:
        return int8_embedding(g, name, matrix)


def _integer_product(g: GraphBuilder, x: str, name: str, weight: str, scales: str) -> str:
    """Rounds x to 8 bits, multiplies, and scales each output.

    The operator would scale outputs itself, but prepares that anew in each run, one by one, in a tenth of a step's
    time; a product of its own takes a hundredth.
    """
    one = g.constant("one", 1.0, np.float32)
    product = g.node("DynamicQuantizeMatMul", [x, weight, one], name=name, domain=MICROSOFT)
    return g.node("Mul", [product, scales], name=f"{name}.scaled")


def _rows_of_one_magnitude(g: GraphBuilder, x: str, name: str, columns: int) -> tuple[str, str]:
    """(x with rows whose mean square is 1, the factors (…, 1) that made them so)."""
    ones = g.constant(f"ones_{columns}", np.ones(columns), np.float32)
    outputs = [f"{name}.even", f"{name}.factor"]
    g.node("SimplifiedLayerNormalization", [x, ones], name=f"{name}.even", outputs=outputs, epsilon=_NO_ROW)
    return outputs[0], outputs[1]


def _spread(matrix: Matrix, most: int, rows: Rows) -> int:
    return largest_hadamard(matrix.columns, most) if rows == "heavy-tailed" else 1


def _spread_out(g: GraphBuilder, x: str, name: str, columns: int, size: int) -> str:
    """Multiplies each run of ``size`` columns by a Hadamard matrix, so that an outlier is shared by all of them."""
    if size == 1:
        return x
    matrix = g.constant(f"hadamard{size}", hadamard(size), np.float32)
    split = g.constant(f"runs_of_{size}", [0, -1, size], np.int64)
    runs = g.node("Reshape", [x, split], name=f"{name}.runs")
    spread = g.node("MatMul", [runs, matrix], name=f"{name}.spread")
    whole = g.constant(f"rows_of_{columns}", [0, -1, columns], np.int64)
    return g.node("Reshape", [spread, whole], name=f"{name}.joined")


def _store_rowwise(
    g: GraphBuilder,
    name: str,
    matrix: Matrix,
    *,
    spread: int = 1,
    factor: NDArray[np.float32] | None = None,
) -> tuple[str, str]:
    """Stores (columns, rows) int8 with one scale for each row of the matrix; returns the names of both."""
    steps = np.empty((matrix.columns, matrix.rows), np.int8)
    scales = np.empty(matrix.rows, np.float32)
    start = 0
    for part in matrix.float_parts():
        rows = _spread_rows(part, spread)
        end = start + len(rows)
        scales[start:end] = row_scales(rows)
        if factor is None:
            steps[:, start:end] = round_rows(rows, scales[start:end])
        else:
            steps[:, start:end] = round_to_inputs(rows, scales[start:end], factor)
        start = end
    weight = g.weight(f"{name}.weight", np.int8, steps.shape, [steps])
    return weight, g.weight(f"{name}.scales", np.float32, scales.shape, [scales])


def _spread_rows(rows: NDArray[np.float32], spread: int) -> NDArray[np.float32]:
    if spread == 1:
        return rows
    return (rows.reshape(-1, spread) @ hadamard(spread)).reshape(rows.shape)


@dataclass(frozen=True)
class Recorder(Float32):
    """fp32 that also gives out the inputs of its linear layers, spread as in ``Rowwise``, for calibration.

    Their rows keep their magnitudes: an error in a large row costs more.
    ``recorded``: linear layer → the graph output that holds its inputs (Q+K+V share theirs, and so on).
    """

    hadamard_size: int = HADAMARD_SIZE
    recorded: dict[str, str] = field(default_factory=dict)

    def linear(self, g: GraphBuilder, x: str, name: str, matrix: Matrix, *, rows: Rows = "uneven") -> str:
        spread = _spread(matrix, self.hadamard_size, rows)
        seen = _spread_out(g, x, name, matrix.columns, spread)
        if seen not in self.recorded.values():
            g.output(seen, np.float32, ("batch", "sequence", matrix.columns))
        self.recorded[name] = seen
        return super().linear(g, x, name, matrix, rows=rows)
