"""One scale for all activations of a run and one for each output: a linear layer is one integer matrix product."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgelm_tools.graph import MICROSOFT, GraphBuilder
from edgelm_tools.matrix import Matrix
from edgelm_tools.quantize.blocks import Int8Tables
from edgelm_tools.quantize.gptq import round_to_inputs
from edgelm_tools.quantize.rotation import hadamard, largest_hadamard
from edgelm_tools.quantize.rowwise import round_rows, row_scales
from edgelm_tools.quantize.scheme import Calibration, Rows
from edgelm_tools.quantize.tables import HEAD_PIECES, embedding_beside

HADAMARD_SIZE = 128
# Far below the square of any activation: a row of zeros stays one.
_NO_ROW = 1e-20


@dataclass(frozen=True)
class Rowwise(Int8Tables):
    """int8 with one scale for all activations of a run and one for each output channel of the weights.

    One integer matrix product serves any number of rows at the machine's full int8 speed. A single scale suits values
    without outliers: all rows are brought to one magnitude, the residual stream is rotated (``rotation.py``), and a
    heavy-tailed input is rotated here, by a small Hadamard matrix just before it is rounded.
    """

    name: str = "int8"
    wants_rotation: bool = True
    hadamard_size: int = HADAMARD_SIZE
    calibration: Calibration | None = None
    calibration_tokens: int = 4096

    def settings(self) -> dict[str, Any]:
        return {"bits": 8, "granularity": "row", "rotation": "hadamard"}

    def linear(self, g: GraphBuilder, x: str, name: str, matrix: Matrix, *, rows: Rows = "uneven") -> str:
        x, magnitude = (x, None) if rows == "normed" else _rows_of_one_magnitude(g, x, name, matrix.columns)
        spread = spread_of(matrix, self.hadamard_size, rows)
        x = spread_out(g, x, name, matrix.columns, spread)
        factor = self.calibration.factor(name) if self.calibration else None
        weight, scales = store_rowwise(g, name, matrix, spread=spread, factor=factor)
        product = _integer_product(g, x, name, weight, scales)
        return product if magnitude is None else g.node("Div", [product, magnitude], name=f"{name}.rescale")

    def head(self, g: GraphBuilder, x: str, name: str, matrix: Matrix, tied_to: str | None) -> str:
        if tied_to is not None:
            return super().head(g, x, name, matrix, tied_to)
        pieces = matrix.split(HEAD_PIECES)
        logits = [self.linear(g, x, f"{name}.{i}", piece, rows="normed") for i, piece in enumerate(pieces)]
        return g.node("Concat", logits, name=f"{name}.joined", axis=-1)

    def embedding(self, g: GraphBuilder, name: str, matrix: Matrix) -> tuple[str, str]:
        """Beside the graph."""
        return embedding_beside(g, matrix), ""


@dataclass(frozen=True)
class DynamicInt8(Int8Tables):
    """ONNX Runtime's classic dynamic quantization: one scale for a whole activation tensor. Fast, and coarse."""

    name: str = "dynamic-int8"
    wants_rotation: bool = False

    def settings(self) -> dict[str, Any]:
        return {"bits": 8, "granularity": "tensor"}

    def linear(self, g: GraphBuilder, x: str, name: str, matrix: Matrix, *, rows: Rows = "uneven") -> str:
        weight, scales = store_rowwise(g, name, matrix)
        return _integer_product(g, x, name, weight, scales)


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


def spread_of(matrix: Matrix, most: int, rows: Rows) -> int:
    """How many neighbouring columns of a layer's input share their outliers; 1: none."""
    return largest_hadamard(matrix.columns, most) if rows == "heavy-tailed" else 1


def spread_out(g: GraphBuilder, x: str, name: str, columns: int, size: int) -> str:
    """Multiplies each run of ``size`` columns by a Hadamard matrix, so that an outlier is shared by all of them."""
    if size == 1:
        return x
    matrix = g.constant(f"hadamard{size}", hadamard(size), np.float32)
    split = g.constant(f"runs_of_{size}", [0, -1, size], np.int64)
    runs = g.node("Reshape", [x, split], name=f"{name}.runs")
    spread = g.node("MatMul", [runs, matrix], name=f"{name}.spread")
    whole = g.constant(f"rows_of_{columns}", [0, -1, columns], np.int64)
    return g.node("Reshape", [spread, whole], name=f"{name}.joined")


def store_rowwise(
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
