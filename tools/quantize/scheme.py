"""What a quantization scheme offers to the architectures.

They call ``linear``, ``lookup``, ``head`` and ``embedding`` and know nothing about bits; a scheme knows nothing about
transformers. All take activations of shape (…, columns), mostly (batch, sequence, columns), and give (…, outputs),
float32.
"""

from __future__ import annotations

from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from edgelm_tools.graph import GraphBuilder
from edgelm_tools.matrix import Matrix

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
        """The output head; ``tied_to`` is what ``lookup`` or ``embedding`` returned if it shares that weight."""
        ...

    def lookup(self, g: GraphBuilder, name: str, matrix: Matrix, ids: str) -> tuple[str, str]:
        """Rows of a table in the graph: (vectors (…, K) float32 of ids (…) int64, a name for ``head(tied_to=…)``)."""
        ...

    def embedding(self, g: GraphBuilder, name: str, matrix: Matrix) -> tuple[str, str]:
        """Declares a decoder's input of tokens, which need not be their ids; returns the same as ``lookup``."""
        ...


def token_ids(g: GraphBuilder) -> str:
    """Declares the usual input of tokens, int64 (B, S)."""
    return g.input("input_ids", np.int64, ("batch", "sequence"))
