"""Weights as they are: the yardstick of the other schemes, and the scheme that calibration looks at them with."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from edgelm_tools.graph import MICROSOFT, GraphBuilder
from edgelm_tools.matrix import Matrix
from edgelm_tools.quantize.rows import HADAMARD_SIZE, spread_of, spread_out
from edgelm_tools.quantize.scheme import Rows, token_ids


@dataclass(frozen=True)
class Float32:
    """Every weight as the checkpoint has it."""

    name: str = "fp32"
    wants_rotation: bool = False

    def settings(self) -> dict[str, Any]:
        return {"bits": 32}

    def linear(self, g: GraphBuilder, x: str, name: str, matrix: Matrix, *, rows: Rows = "uneven") -> str:
        weight = g.weight(f"{name}.weight", np.float32, (matrix.rows, matrix.columns), matrix.float_parts())
        return _multiply_transposed(g, x, weight, name)

    def head(self, g: GraphBuilder, x: str, name: str, matrix: Matrix, tied_to: str | None) -> str:
        return _multiply_transposed(g, x, tied_to, name) if tied_to else self.linear(g, x, name, matrix)

    def lookup(self, g: GraphBuilder, name: str, matrix: Matrix, ids: str) -> tuple[str, str]:
        weight = g.weight(f"{name}.weight", np.float32, (matrix.rows, matrix.columns), matrix.float_parts())
        return g.node("Gather", [weight, ids], name=name, axis=0), weight

    def embedding(self, g: GraphBuilder, name: str, matrix: Matrix) -> tuple[str, str]:
        return self.lookup(g, name, matrix, token_ids(g))


def _multiply_transposed(g: GraphBuilder, x: str, weight: str, name: str) -> str:
    return g.node("FusedMatMul", [x, weight], name=name, domain=MICROSOFT, transB=1)


@dataclass(frozen=True)
class Recorder(Float32):
    """fp32 that also gives out the inputs of its linear layers, spread as in ``Rowwise``, for calibration.

    Their rows keep their magnitudes: an error in a large row costs more.
    ``recorded``: linear layer → the graph output that holds its inputs (Q+K+V share theirs, and so on).
    """

    hadamard_size: int = HADAMARD_SIZE
    recorded: dict[str, str] = field(default_factory=dict)

    def linear(self, g: GraphBuilder, x: str, name: str, matrix: Matrix, *, rows: Rows = "uneven") -> str:
        spread = spread_of(matrix, self.hadamard_size, rows)
        seen = spread_out(g, x, name, matrix.columns, spread)
        if seen not in self.recorded.values():
            g.output(seen, np.float32, ("batch", "sequence", matrix.columns))
        self.recorded[name] = seen
        return super().linear(g, x, name, matrix, rows=rows)
