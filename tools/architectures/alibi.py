"""Attention with linear biases (ALiBi, arXiv 2108.12409): scores fall with the distance to the token looked at."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

from edgelm_tools.graph import GraphBuilder


def slopes(heads: int) -> NDArray[np.float32]:
    """How steeply each head's scores fall: (heads,) float32.

    A geometric sequence for a power of two; other counts take the rest from between those of the next power.
    """
    power = 1 << (heads.bit_length() - 1)
    ours = 2.0 ** (-8 / power * np.arange(1, power + 1))
    between = 2.0 ** (-4 / power * np.arange(1, 2 * (heads - power), 2))
    return np.concatenate([ours, between]).astype(np.float32)


def alibi_bias(g: GraphBuilder, x: str, heads: int) -> str:
    """What attention adds to its scores: (1, heads, sequence, total sequence) float32, once for all layers.

    ``x``: (batch, sequence, …), the last of ``total_sequence_length`` tokens. Rows that are shorter are padded on the
    right, so that the places of their tokens are those of the longest; where only one token is new, the distance from
    its own place is wrong by the same amount for all, which softmax does not see.
    """
    zero, one = (g.constant(f"alibi.{name}", value, np.int32) for name, value in (("zero", 0), ("one", 1)))
    total = "total_sequence_length"
    length = g.node("Shape", [x], name="alibi.length", start=1, end=2)
    count = g.node("Cast", [g.node("Squeeze", [length], name="alibi.scalar")], name="alibi.count", to=TensorProto.INT32)
    past = g.node("Sub", [total, count], name="alibi.past")
    keys = g.node("Range", [zero, total, one], name="alibi.keys")
    queries = g.node("Range", [past, total, one], name="alibi.queries")
    down = g.node("Unsqueeze", [queries, g.constant("alibi.axis", [1], np.int64)], name="alibi.rows")
    behind = g.node("Sub", [keys, down], name="alibi.behind")
    distance = g.node("Cast", [behind], name="alibi.distance", to=TensorProto.FLOAT)
    slope = g.constant("alibi.slopes", slopes(heads).reshape(1, heads, 1, 1), np.float32)
    return g.node("Mul", [distance, slope], name="alibi.bias")
