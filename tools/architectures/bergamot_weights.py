"""The tensors of a Bergamot model, by Marian's names, as the graphs take them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edgelm.errors import ModelError
from edgelm_tools.architectures.bergamot_spec import BergamotSpec
from edgelm_tools.architectures.decoder_layers import Floats, Linear, NormWeights
from edgelm_tools.checkpoint.base import Checkpoint
from edgelm_tools.matrix import Matrix, read_tensor

EMBEDDING_NAME = "Wemb"


@dataclass(frozen=True, slots=True)
class BergamotWeights:
    """Reads a checkpoint's tensors when they are written; each is checked against the configuration first.

    Every method raises ModelError for a tensor that is missing or of another shape.
    """

    checkpoint: Checkpoint
    spec: BergamotSpec

    def embedding(self) -> Matrix:
        """The vectors of all tokens, and the output head."""
        return self._matrix(EMBEDDING_NAME, (self.spec.vocab_size, self.spec.width))

    def packed(self, prefix: str, kinds: str) -> Linear:
        """Projections of one attention, side by side: ``kinds`` are letters out of q, k, v and o."""
        width = self.spec.width
        matrices = [self._matrix(f"{prefix}_W{kind}", (width, width)) for kind in kinds]
        biases = [self.vector(f"{prefix}_b{kind}", width) for kind in kinds]
        return Matrix.stacked(matrices), np.concatenate(biases)

    def cell(self, prefix: str) -> Linear:
        """A recurrent cell's gate, which has a bias, and values, which have none, side by side."""
        width = self.spec.width
        matrices = [self._matrix(f"{prefix}_{name}", (width, width)) for name in ("Wf", "W")]
        return Matrix.stacked(matrices), np.concatenate(
            [self.vector(f"{prefix}_bf", width), np.zeros(width, np.float32)]
        )

    def linear(self, weight: str, bias: str) -> Linear:
        """One half of a feed-forward sublayer; its shape tells which."""
        shapes = (self.spec.inner_width, self.spec.width)
        shape = shapes if weight.endswith("W1") else shapes[::-1]
        return self._matrix(weight, shape), self.vector(bias, shape[0])

    def norm(self, prefix: str) -> NormWeights:
        """Weight and bias of a norm."""
        width = self.spec.width
        return self.vector(f"{prefix}_ln_scale", width), self.vector(f"{prefix}_ln_bias", width)

    def vector(self, name: str, size: int | None = None) -> Floats:
        """A bias or the like; without a ``size``, one value a token."""
        self._check(name, (size or self.spec.vocab_size,))
        return read_tensor(self.checkpoint, name)

    def _matrix(self, name: str, shape: tuple[int, int]) -> Matrix:
        self._check(name, shape)
        return Matrix.of(self.checkpoint, name)

    def _check(self, name: str, shape: tuple[int, ...]) -> None:
        found = self.checkpoint.shape(name)
        if found != shape:
            raise ModelError(f"tensor {name!r} has the shape {found}; the configuration asks for {shape}")
