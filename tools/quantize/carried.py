"""int8 weights that a checkpoint has already, unchanged: integer matrix products, exact on every processor.

Such weights use all of their range. Processors without VNNI multiply unsigned bytes by signed ones and add two products
in 16 bits: with activations of 7 bits no sum overflows, as 2 · 127 · 128 < 2¹⁵. As 7 bits are few, activations are
rounded twice: to a coarse step, and what is left over to a fine one. Both are multiplied by the same weights, and
together they are as good as 14 bits. Each row of activations has a step of its own, so what becomes of a row does not
depend on those beside it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeGuard

import numpy as np
from numpy.typing import NDArray

from edgelm_tools.checkpoint.base import BlockQuantized
from edgelm_tools.graph import MICROSOFT, GraphBuilder
from edgelm_tools.matrix import Matrix, Part
from edgelm_tools.quantize.blockwise import reciprocal
from edgelm_tools.quantize.scheme import Rows, token_ids

# Activations lie around the middle of 0 … 127.
_MIDDLE = 64
_STEPS = 63
_MOST = 127
# A coarse step has that many fine ones: what is left over is half a coarse step at most.
_FINER = 2 * _STEPS
# Below every activation that matters: a row of zeros stays one.
_NO_ROW = 1e-20


@dataclass(frozen=True)
class CarriedInt8:
    """int8 with the checkpoint's own integers and scales; what it has in floating point is rounded to nearest."""

    name: str = "int8"
    wants_rotation: bool = False

    def settings(self) -> dict[str, Any]:
        return {"bits": 8, "granularity": "row", "carried": True}

    def linear(self, g: GraphBuilder, x: str, name: str, matrix: Matrix, *, rows: Rows = "uneven") -> str:
        steps, scales = _steps(matrix)
        weight = g.weight(f"{name}.weight", np.int8, steps.T.shape, [steps.T])
        return _product(g, x, name, weight, _scale(g, name, scales))

    def head(self, g: GraphBuilder, x: str, name: str, matrix: Matrix, tied_to: str | None) -> str:
        if tied_to is None:
            return self.linear(g, x, name, matrix)
        # Stored once, for look-ups; the runtime turns it round when it is loaded.
        weight = g.node("Transpose", [f"{tied_to}.weight"], name=f"{name}.weight", perm=[1, 0])
        return _product(g, x, name, weight, f"{tied_to}.scale")

    def lookup(self, g: GraphBuilder, name: str, matrix: Matrix, ids: str) -> tuple[str, str]:
        steps, scales = _steps(matrix)
        table = g.weight(f"{name}.weight", np.int8, steps.shape, [steps])
        scale = _scale(g, name, scales)
        picked = g.node("Gather", [table, ids], name=f"{name}.steps", axis=0)
        if scales.size == 1:
            return g.node("DequantizeLinear", [picked, scale], name=name), name
        whole = g.node("DequantizeLinear", [picked, _one(g)], name=f"{name}.whole")
        factors = g.node("Gather", [scale, ids], name=f"{name}.factors", axis=0)
        column = g.node("Unsqueeze", [factors, _last_axis(g)], name=f"{name}.column")
        return g.node("Mul", [whole, column], name=name), name

    def embedding(self, g: GraphBuilder, name: str, matrix: Matrix) -> tuple[str, str]:
        return self.lookup(g, name, matrix, token_ids(g))


def _product(g: GraphBuilder, x: str, name: str, weight: str, scale: str) -> str:
    """Rounds the rows of x, multiplies both parts, and scales the rows back."""
    step, coarse, fine = _rounded_rows(g, x)
    middle = g.constant("middle", _MIDDLE, np.uint8)
    products = [
        g.node("MatMulIntegerToFloat", [part, weight, size, scale, middle], name=f"{name}.{kind}", domain=MICROSOFT)
        for kind, part, size in (("coarse", coarse, _one(g)), ("fine", fine, _fine_step(g)))
    ]
    total = g.node("Add", products, name=name)
    return g.node("Mul", [total, step], name=f"{name}.rescaled")


def _rounded_rows(g: GraphBuilder, x: str) -> tuple[str, str, str]:
    """(Coarse step of each row (…, 1), x in coarse steps, the rest in fine ones): once for all layers that read x."""
    names = f"{x}.step", f"{x}.coarse", f"{x}.fine"
    if g.makes(names[0]):
        return names
    step, coarse, fine = names
    magnitudes = g.node("Abs", [x], name=f"{x}.magnitudes")
    largest = g.node("ReduceMax", [magnitudes, _last_axis(g)], name=f"{x}.largest", keepdims=1)
    some = g.node("Max", [largest, g.constant("no_row", _NO_ROW, np.float32)], name=f"{x}.some")
    g.node("Mul", [some, g.constant("share", 1 / _STEPS, np.float32)], name=step, outputs=[step])
    even = g.node("Div", [x, step], name=f"{x}.even")
    middle = g.constant("middle", _MIDDLE, np.uint8)
    g.node("QuantizeLinear", [even, _one(g), middle], name=coarse, outputs=[coarse])
    back = g.node("DequantizeLinear", [coarse, _one(g), middle], name=f"{x}.back")
    rest = g.node("Sub", [even, back], name=f"{x}.rest")
    g.node("QuantizeLinear", [rest, _fine_step(g), middle], name=fine, outputs=[fine])
    return names


def _one(g: GraphBuilder) -> str:
    return g.constant("one", 1.0, np.float32)


def _fine_step(g: GraphBuilder) -> str:
    return g.constant("fine_step", 1 / _FINER, np.float32)


def _last_axis(g: GraphBuilder) -> str:
    return g.constant("last_axis", [-1], np.int64)


def _scale(g: GraphBuilder, name: str, scales: NDArray[np.float32]) -> str:
    return g.constant(f"{name}.scale", scales[0] if scales.size == 1 else scales, np.float32)


def _steps(matrix: Matrix) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """The matrix as (rows, columns) int8 and its scales: (rows,), or (1,) where all are the same."""
    steps = np.empty((matrix.rows, matrix.columns), np.int8)
    scales = np.empty(matrix.rows, np.float32)
    start = 0
    for part in matrix.parts():
        end = start + len(part.values if isinstance(part, BlockQuantized) else part)
        steps[start:end], scales[start:end] = _carried(part) if _has_rows(part) else _nearest(matrix, part)
        start = end
    return steps, scales[:1] if (scales == scales[0]).all() else scales


def _has_rows(part: Part) -> TypeGuard[BlockQuantized]:
    return isinstance(part, BlockQuantized) and part.bits == 8 and part.scales.shape[1] == 1


def _carried(part: BlockQuantized) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    return part.values, part.scales[:, 0]


def _nearest(matrix: Matrix, part: Part) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    rows = np.concatenate(list(Matrix(matrix.rows, matrix.columns, lambda: iter([part])).float_parts()))
    scales: NDArray[np.float32] = np.abs(rows).max(axis=1) / np.float32(_MOST)
    return np.rint(rows * reciprocal(scales)[:, None]).astype(np.int8), scales
