"""int8 for encoders: many rows at a time, whose outliers are known and kept out of the integers.

One scale serves all activations of a run, so that a layer is a single integer matrix product. Outliers would take up
that scale's range; where they are is the same in all texts:

- Behind a norm a few inputs are large in every row. They are divided by factors that the weights are multiplied with
  (SmoothQuant, arXiv 2211.10438).
- Behind the activation of an MLP very few inputs are very large in few rows, and a factor would cost a pass over all.
  The architecture computes those ``spikes`` apart, in fp32.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgelm_tools.graph import MICROSOFT, GraphBuilder
from edgelm_tools.matrix import Matrix
from edgelm_tools.quantize.blocks import Int8Tables
from edgelm_tools.quantize.rows import store_rowwise
from edgelm_tools.quantize.scheme import Rows

_INPUTS_A_SPIKE = 64
# How much of the range of the inputs, in powers of it, is moved to the weights.
_MOVED = 0.75
_LEAST = 1e-5


@dataclass(frozen=True)
class SmoothedRows(Int8Tables):
    """Implements ``Scheme``; ``inputs``: linear layer → largest magnitudes (K,) of its inputs, where they are known."""

    name: str = "int8"
    wants_rotation: bool = False
    inputs: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)

    def settings(self) -> dict[str, Any]:
        return {"bits": 8, "granularity": "row", "smoothing": bool(self.inputs)}

    def spikes(self, name: str) -> NDArray[np.int64]:
        """The inputs of the linear layer of that name that should be computed apart, in order."""
        if name not in self.inputs:
            return np.empty(0, np.int64)
        largest = self.inputs[name]
        return np.sort(np.argsort(largest)[len(largest) - len(largest) // _INPUTS_A_SPIKE :])

    def linear(
        self,
        g: GraphBuilder,
        x: str,
        name: str,
        matrix: Matrix,
        *,
        rows: Rows = "uneven",
        bias: NDArray[np.float32] | None = None,
    ) -> str:
        """As in ``Scheme``; a bias (N,) costs nothing here."""
        if rows == "normed" and name in self.inputs:
            factors = _smoothing(self.inputs[name], matrix)
            shrinking = g.constant(f"{name}.shrinking", 1 / factors, np.float32)
            x = g.node("Mul", [x, shrinking], name=f"{name}.smooth")
            matrix = matrix.mapped(lambda rows: rows * factors)
        weight, scales = store_rowwise(g, name, matrix)
        inputs = [x, weight, scales]
        if bias is not None:
            inputs += ["", g.constant(f"{name}.bias", bias, np.float32)]
        return g.node("DynamicQuantizeMatMul", inputs, name=name, domain=MICROSOFT)


def _smoothing(largest: NDArray[np.float32], matrix: Matrix) -> NDArray[np.float32]:
    """Factors (K,) that move a large input's range to its weights; 1 for an input in the middle."""
    weights = np.zeros(matrix.columns, np.float32)
    for part in matrix.float_parts():
        np.maximum(weights, np.abs(part).max(axis=0), out=weights)
    factors = np.maximum(largest, _LEAST) ** _MOVED / np.maximum(weights, _LEAST) ** (1 - _MOVED)
    return np.asarray(factors / np.median(factors), np.float32)
