"""A token and those around it side by side, so that a convolution over them is a linear layer."""

from __future__ import annotations

import numpy as np
from onnx import TensorProto

from edgelm_tools.graph import GraphBuilder

_END = int(np.iinfo(np.int64).max)


def with_neighbours(g: GraphBuilder, x: str, mask: str, size: int) -> str:
    """x (B, S, hidden) → (B, S, size · hidden): for each token the ``size`` around it, from left to right.

    Beyond both ends of a text, padding included, there are zeros. ``mask`` (B, S): 1 = token; ``size`` is odd.
    """
    reach, axis = size // 2, g.constant("neighbours.axis", [1], np.int64)
    kept = g.node("Cast", [mask], name="neighbours.mask", to=TensorProto.FLOAT)
    kept = g.node("Unsqueeze", [kept, g.constant("neighbours.last", [-1], np.int64)], name="neighbours.kept")
    x = g.node("Mul", [x, kept], name="neighbours.tokens")
    some = g.node("Gather", [x, g.constant("neighbours.some", [0] * reach, np.int64)], name="neighbours.some", axis=1)
    nothing = g.node("Sub", [some, some], name="neighbours.nothing")
    longer = g.node("Concat", [nothing, x, nothing], name="neighbours.longer", axis=1)
    shifted = []
    for place in range(size):
        name = f"neighbours.{place}"
        ends = (place, place - 2 * reach or _END)
        bounds = [g.constant(f"{name}.{key}", [end], np.int64) for key, end in zip(("first", "end"), ends, strict=True)]
        shifted.append(g.node("Slice", [longer, *bounds, axis], name=name))
    return g.node("Concat", shifted, name="neighbours.joined", axis=-1)
