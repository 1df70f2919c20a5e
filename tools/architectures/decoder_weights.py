"""The weights of a decoder-only checkpoint: what reading them has in common whatever the family."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from edgelm.errors import ModelError, UnsupportedModelError
from edgelm_tools.architectures.decoder_layers import Floats, NormWeights
from edgelm_tools.architectures.decoder_spec import DecoderSpec
from edgelm_tools.architectures.head_layout import HeadLayout, layout_of_heads
from edgelm_tools.checkpoint.base import Checkpoint
from edgelm_tools.quantize.rotation import rotation_matrix

Shape = tuple[int, ...]
# Any numbers do: of three rotations of the stream, perplexity rises by 0.4, 0.4 and 0.6 %.
STREAM_SEED, HEAD_SEED = 3, 2
# In the names of its tensors, whatever stands before and behind.
_FIRST_LAYER = ".0."


@dataclass(frozen=True)
class DecoderWeights(ABC):
    """Reads the checkpoint's tensors, one at a time, as matrices and vectors of the graph; see the families.

    Raises:
        ModelError: a tensor is missing, or of another shape than the configuration says; names it.
        UnsupportedModelError: the checkpoint has a tensor that such a model does not; names it.
    """

    checkpoint: Checkpoint
    spec: DecoderSpec
    rotated: bool = False

    @abstractmethod
    def final_norm(self) -> NormWeights | None:
        """The norm before the output head, if any: (hidden,) each."""

    @cached_property
    def layout(self) -> HeadLayout:
        """How the heads of the model stand in those of the graph and its KV cache."""
        return layout_of_heads(self.spec.head_size, self.spec.rotated_pairs)

    @cached_property
    def head_is_embedding(self) -> bool:
        """Whether one table serves as embedding and output head in the graph."""
        return self.spec.tied_embeddings and not self.rotated

    def parameters(self) -> int:
        """How many values the checkpoint has."""
        return sum(math.prod(self.checkpoint.shape(name)) for name in self._stored)

    def has_blocks(self, bits: int) -> bool:
        """Whether the checkpoint has a matrix of the first layer in blocks of so many bits already."""
        names = sorted(name for name in self._stored if _FIRST_LAYER in name)
        found = (self.checkpoint.quantized(name) for name in names)
        return any(part is not None and part.bits == bits for part in found)

    @cached_property
    def _stored(self) -> frozenset[str]:
        return frozenset(self.checkpoint.names())

    @cached_property
    def _stream_rotation(self) -> Floats:
        return rotation_matrix(self.spec.hidden_size, STREAM_SEED).astype(np.float32)

    @cached_property
    def _head_rotation(self) -> Floats:
        return rotation_matrix(self.spec.head_size, HEAD_SEED).astype(np.float32)

    def _rotated_heads(self, rows: Floats, heads: int) -> Floats:
        """(heads · head size, columns), each head multiplied by the rotation of heads."""
        by_head = rows.reshape(heads, self.spec.head_size, -1)
        rotated: Floats = self._head_rotation.T @ by_head
        return rotated.reshape(rows.shape)


def check_names_and_shapes(
    checkpoint: Checkpoint,
    needed: Mapping[str, Shape],
    optional: Mapping[str, Shape],
    *,
    computed: tuple[str, ...],
    model_type: str,
) -> None:
    """Checks that every needed tensor is there, all in their shapes, and that there is no other.

    A tensor that the graph would not read is an error: it belongs to a part that would be left out of the computation.

    Args:
        checkpoint: what has been opened.
        needed: name → shape.
        optional: the same of those that may be missing.
        computed: ends of names of tensors that follow from the configuration, in old checkpoints.
        model_type: for messages.

    Raises:
        ModelError: a tensor is missing or of another shape; names it.
        UnsupportedModelError: a tensor has no place in such a model; names it.
    """
    stored = frozenset(checkpoint.names())
    present = {name: shape for name, shape in optional.items() if name in stored}
    for name, shape in {**needed, **present}.items():
        if name not in stored:
            raise ModelError(f"the checkpoint has no tensor {name!r}")
        if checkpoint.shape(name) != shape:
            raise ModelError(f"tensor {name!r} has shape {checkpoint.shape(name)}; by config.json it is {shape}")
    for name in sorted(stored - needed.keys() - optional.keys()):
        if not name.endswith(computed):
            raise UnsupportedModelError(f"tensor {name!r:.120} is not one that this {model_type} has")
