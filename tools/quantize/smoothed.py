"""int8 for encoders: many rows at a time, whose outliers are known and kept out of the integers.

One scale serves all activations of a run, so that a layer is a single integer matrix product. Outliers would take up
that scale's range; where they are is the same in all texts:

- Behind a norm a few inputs are large in every row. They are divided by factors that the weights are multiplied with
  (SmoothQuant, arXiv 2211.10438).
- Behind the activation of an MLP very few inputs are very large in few rows, and a factor would cost a pass over all.
  The architecture computes those ``spikes`` apart, in fp32.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgelm_tools.graph import MICROSOFT, GraphBuilder
from edgelm_tools.matrix import Matrix
from edgelm_tools.quantize.blocks import int8_head, int8_lookup
from edgelm_tools.quantize.gptq import error_factor
from edgelm_tools.quantize.rows import store_rowwise
from edgelm_tools.quantize.scheme import Rows, token_ids

_INPUTS_A_SPIKE = 96
_LEAST = 1e-5


@dataclass(frozen=True)
class InputStatistics:
    """What is known of a linear layer's inputs x (rows, K).

    ``largest``: (K,) float32, their largest magnitudes; ``products``: (K, K) float32, the sum of xᵀx.
    """

    largest: NDArray[np.float32]
    products: NDArray[np.float32]

    def merged(self, other: InputStatistics) -> InputStatistics:
        """Of the inputs of both."""
        return InputStatistics(np.maximum(self.largest, other.largest), self.products + other.products)

    def only(self, columns: NDArray[np.int64]) -> InputStatistics:
        """Of some of the inputs."""
        return InputStatistics(self.largest[columns], self.products[np.ix_(columns, columns)])


@dataclass(frozen=True)
class SmoothedRows:
    """Implements ``Scheme``; ``inputs``: linear layer → what is known of its inputs, where that was measured."""

    name: str = "int8"
    wants_rotation: bool = False
    inputs: Mapping[str, InputStatistics] = field(default_factory=dict)

    def settings(self) -> dict[str, Any]:
        return {"bits": 8, "granularity": "row", "smoothing": bool(self.inputs)}

    def spikes(self, name: str) -> NDArray[np.int64]:
        """The inputs of the linear layer of that name that should be computed apart, in order."""
        if name not in self.inputs:
            return np.empty(0, np.int64)
        largest = self.inputs[name].largest
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
        known = self.inputs.get(name)
        if known is not None and len(known.largest) != matrix.columns:
            known = known.only(np.delete(np.arange(len(known.largest)), self.spikes(name)))
        factors = np.ones(matrix.columns, np.float32)
        if known is not None and rows == "normed":
            factors = _smoothing(known.largest, matrix)
            shrink = g.constant(f"{name}.smoothing", 1 / factors, np.float32)
            x = g.node("Mul", [x, shrink], name=f"{name}.smooth")
        rest = None if known is None else error_factor(known.products / np.outer(factors, factors))
        weight, scales = store_rowwise(g, name, _scaled_columns(matrix, factors), factor=rest)
        inputs = [x, weight, scales]
        if bias is not None:
            inputs += ["", g.constant(f"{name}.bias", bias, np.float32)]
        return g.node("DynamicQuantizeMatMul", inputs, name=name, domain=MICROSOFT)

    def head(self, g: GraphBuilder, x: str, name: str, matrix: Matrix, tied_to: str | None) -> str:
        return int8_head(g, x, name, matrix, tied_to)

    def lookup(self, g: GraphBuilder, name: str, matrix: Matrix, ids: str) -> tuple[str, str]:
        return int8_lookup(g, name, matrix, ids)

    def embedding(self, g: GraphBuilder, name: str, matrix: Matrix) -> tuple[str, str]:
        return int8_lookup(g, name, matrix, token_ids(g))


def _smoothing(largest: NDArray[np.float32], matrix: Matrix) -> NDArray[np.float32]:
    """Factors (K,) that share the range of inputs and weights between both; 1 for an input in the middle."""
    weights = np.zeros(matrix.columns, np.float32)
    for part in matrix.float_parts():
        np.maximum(weights, np.abs(part).max(axis=0), out=weights)
    factors = np.sqrt(np.maximum(largest, _LEAST) / np.maximum(weights, _LEAST))
    result: NDArray[np.float32] = factors / np.median(factors)
    return result


def _scaled_columns(matrix: Matrix, factors: NDArray[np.float32]) -> Matrix:
    def read() -> Iterator[NDArray[np.float32]]:
        for part in matrix.float_parts():
            yield part * factors

    return Matrix(matrix.rows, matrix.columns, read)
