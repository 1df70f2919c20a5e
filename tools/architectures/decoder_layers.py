"""Pieces of a decoder's step that the families share: norms, linear layers with a bias, cached attention, logits.

Activations are (batch, sequence, width) throughout; a name in, a name out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from edgelm_tools.graph import MICROSOFT, GraphBuilder
from edgelm_tools.matrix import Matrix
from edgelm_tools.quantize.scheme import Rows, Scheme

Floats = NDArray[np.float32]
NormWeights = tuple[Floats, Floats | None]
"""Weight and bias of a norm, (width,) each."""
Linear = tuple[Matrix, Floats | None]
"""The weight of a linear layer, (outputs, inputs), and its bias, (outputs,)."""
Activation = Literal["silu", "gelu", "gelu_tanh", "quick_gelu", "relu", "tanh"]

# By transformers' names; several write the same function in other ways.
ACTIVATIONS: dict[str, Activation] = {
    "relu": "relu",
    "tanh": "tanh",
    "silu": "silu",
    "swish": "silu",
    "quick_gelu": "quick_gelu",
    "gelu": "gelu",
    "gelu_python": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_accurate": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_python_tanh": "gelu_tanh",
}


@dataclass(frozen=True, slots=True)
class Norm:
    """The norm of a model: root mean square, or with the mean taken off (``layer``)."""

    g: GraphBuilder
    kind: Literal["rms", "layer"]
    epsilon: float

    def of(self, x: str, weights: NormWeights, name: str) -> str:
        """The normed x."""
        op = "SimplifiedLayerNormalization" if self.kind == "rms" else "LayerNormalization"
        return self.g.node(op, [x, *self._constants(weights, name)], name=name, epsilon=self.epsilon)

    def of_sum(
        self, stream: str, update: str, weights: NormWeights | None, name: str, sum_name: str
    ) -> tuple[str, str]:
        """Adds an update to the stream and norms the sum: (sum, normed sum); one operator does both.

        ``update``: empty where there is none yet. ``weights``: None for no norm, which makes the two the same.
        """
        if not update:
            return stream, stream if weights is None else self.of(stream, weights, name)
        if weights is None:
            total = self.g.node("Add", [stream, update], name=f"{sum_name}.sum")
            return total, total
        inputs = [stream, update, *self._constants(weights, name)]
        outputs = [f"{name}.out", "", "", f"{sum_name}.sum"]
        op = "SkipSimplifiedLayerNormalization" if self.kind == "rms" else "SkipLayerNormalization"
        normed = self.g.node(op, inputs, name=name, outputs=outputs, domain=MICROSOFT, epsilon=self.epsilon)
        return outputs[3], normed

    def _constants(self, weights: NormWeights, name: str) -> list[str]:
        weight, bias = weights
        constants = [self.g.constant(f"{name}.weight", weight, np.float32)]
        if bias is not None:
            constants.append(self.g.constant(f"{name}.bias", bias, np.float32))
        return constants


def declare_lengths(g: GraphBuilder) -> None:
    """Declares the inputs that tell ``cached_attention`` how long the rows are."""
    g.input("seqlens_k", np.int32, ("batch",))
    g.input("total_sequence_length", np.int32, ())


def cached_attention(
    g: GraphBuilder,
    i: int,
    heads: Sequence[str],
    *,
    num_heads: int,
    kv_num_heads: int,
    head_size: int,
    tables: tuple[str, str] | None = None,
    bias: str = "",
    **attributes: Any,
) -> str:
    """The attention of layer ``i`` (operator GroupQueryAttention), with its cache as graph inputs and outputs.

    Args:
        g: the graph; ``declare_lengths`` was called on it.
        i: the layer.
        heads: queries, keys and values; or all three in one, and two empty names.
        num_heads: of the queries.
        kv_num_heads: of keys and values.
        head_size: in the graph.
        tables: cosines and sines of rotary positions, if the model has those.
        bias: added to the scores, (1, heads, sequence, total sequence) float32.
        attributes: further ones of the operator.

    Returns:
        heads side by side, (batch, sequence, heads · head size).
    """
    shape = ("batch", kv_num_heads, "capacity", head_size)
    past = [g.input(f"past_key_values.{i}.{kind}", np.float32, shape) for kind in ("key", "value")]
    present = [g.output(f"present.{i}.{kind}", np.float32, shape) for kind in ("key", "value")]
    inputs = [*heads, *past, "seqlens_k", "total_sequence_length", *(tables or ("", ""))]
    return g.node(
        "GroupQueryAttention",
        [*inputs, "", bias] if bias else inputs,
        name=f"layer{i}.attention",
        outputs=[f"layer{i}.attention.out", *present],
        domain=MICROSOFT,
        num_heads=num_heads,
        kv_num_heads=kv_num_heads,
        do_rotary=int(tables is not None),
        **attributes,
    )


def linear(
    g: GraphBuilder, scheme: Scheme, x: str, name: str, matrix: Matrix, bias: Floats | None, rows: Rows = "uneven"
) -> str:
    """x (…, K) times the matrix (N, K), plus the bias (N,) if there is one."""
    product = scheme.linear(g, x, name, matrix, rows=rows)
    if bias is None:
        return product
    return g.node("Add", [product, g.constant(f"{name}.bias", bias, np.float32)], name=f"{name}.biased")


def activated(g: GraphBuilder, x: str, kind: Activation, name: str) -> str:
    """The activation function of an MLP."""
    if kind in _SIGMOIDS:
        return g.node("QuickGelu", [x], name=name, domain=MICROSOFT, alpha=_SIGMOIDS[kind])
    if kind in _PLAIN:
        return g.node(_PLAIN[kind], [x], name=name)
    return g.node("Gelu", [x], name=name, approximate="tanh" if kind == "gelu_tanh" else "none")


# x · sigmoid(alpha · x)
_SIGMOIDS = {"silu": 1.0, "quick_gelu": 1.702}
_PLAIN = {"relu": "Relu", "tanh": "Tanh"}


def scaled(g: GraphBuilder, x: str, factor: float, name: str) -> str:
    """x times a number."""
    return g.node("Mul", [x, g.constant(f"{name}.factor", factor, np.float32)], name=name)


def take_rows(g: GraphBuilder, x: str, wanted: str, width: int, name: str) -> str:
    """The wanted rows of x (batch, sequence, width): (1, rows, width)."""
    shape = g.constant(f"all_rows_of_{width}", [1, -1, width], np.int64)
    rows = g.node("Reshape", [x, shape], name=f"{name}.rows")
    return g.node("Gather", [rows, wanted], name=f"{name}.wanted", axis=1)


def give_logits(g: GraphBuilder, logits: str, vocab_size: int) -> None:
    """Declares the output ``logits`` (rows, vocabulary) of logits (1, rows, vocabulary)."""
    flat = g.constant("logits.shape", [-1, vocab_size], np.int64)
    output = g.output("logits", np.float32, ("rows", vocab_size))
    g.node("Reshape", [logits, flat], name="logits", outputs=[output])
