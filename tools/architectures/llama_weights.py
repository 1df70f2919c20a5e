"""The weights of a LLaMA-family checkpoint as the graph wants them: fused, padded, and rotated if asked for.

Padding: see ``head_layout.py``. Rotation: see ``quantize/rotation.py``; norm weights then move into the matrices behind
them, and the residual stream and the values of each head are multiplied by orthogonal matrices.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from edgelm.errors import ModelError
from edgelm_tools.architectures.head_layout import HeadLayout, head_layout
from edgelm_tools.architectures.llama_spec import DecoderSpec
from edgelm_tools.checkpoint.base import Checkpoint
from edgelm_tools.matrix import Matrix
from edgelm_tools.quantize.rotation import rotation_matrix

Floats = NDArray[np.float32]
STREAM_SEED, HEAD_SEED = 1, 2

# place of a norm in the graph → its tensor, by where the model has its norms
_PRE = {"attention": "input_layernorm", "mlp": "post_attention_layernorm"}
_SANDWICH = {
    "attention": "input_layernorm",
    "after_attention": "post_attention_layernorm",
    "mlp": "pre_feedforward_layernorm",
    "after_mlp": "post_feedforward_layernorm",
}
_NORM_TENSORS = {"pre": _PRE, "parallel": _PRE, "post": _SANDWICH, "sandwich": _SANDWICH}


def can_rotate(spec: DecoderSpec) -> bool:
    """Whether the residual stream may be rotated: only RMS norms that stand before the sublayers allow it."""
    return spec.norm == "rms" and spec.residual in ("pre", "parallel")


def padded_head_size(spec: DecoderSpec) -> int:
    """The head size of the graph and of its KV cache: the model's own, or the next that attention takes."""
    return head_layout(spec).padded_size


@dataclass(frozen=True)
class LlamaWeights:
    """Reads the checkpoint's tensors, one at a time, as matrices and vectors of the graph."""

    checkpoint: Checkpoint
    spec: DecoderSpec
    rotated: bool = False

    @cached_property
    def layout(self) -> HeadLayout:
        """How the heads of the model stand in those of the graph."""
        return head_layout(self.spec)

    def parameters(self) -> int:
        """How many values the checkpoint has."""
        return sum(math.prod(self.checkpoint.shape(name)) for name in self._names)

    @cached_property
    def head_is_embedding(self) -> bool:
        """Whether one table serves as embedding and output head in the graph."""
        return self._tied and not self.rotated

    @cached_property
    def _tied(self) -> bool:
        return self.spec.tied_embeddings or "lm_head.weight" not in self._names

    @cached_property
    def _names(self) -> frozenset[str]:
        return frozenset(self.checkpoint.names())

    @cached_property
    def _stream_rotation(self) -> Floats:
        return rotation_matrix(self.spec.hidden_size, STREAM_SEED).astype(np.float32)

    @cached_property
    def _head_rotation(self) -> Floats:
        return rotation_matrix(self.spec.head_size, HEAD_SEED).astype(np.float32)

    def embedding(self) -> Matrix:
        """(vocabulary, hidden)."""
        name = "model.embed_tokens.weight"
        if not self.rotated:
            return Matrix.of(self.checkpoint, name)
        return Matrix.of(self.checkpoint, name, lambda rows: rows @ self._stream_rotation)

    def head(self) -> Matrix:
        """(vocabulary, hidden)."""
        name = "model.embed_tokens.weight" if self._tied else "lm_head.weight"
        return self._reading(name, "model.norm.weight")

    def qkv(self, i: int) -> Matrix:
        """Queries, keys and values in one: ((heads + 2 · kv_heads) · padded head size, hidden)."""
        spec = self.spec
        parts = [("q", spec.heads), ("k", spec.kv_heads), ("v", spec.kv_heads)]
        return Matrix.stacked([self._projection(i, kind, heads) for kind, heads in parts])

    def _projection(self, i: int, kind: str, heads: int) -> Matrix:
        name, rows = self._location(i, kind)
        columns = self.spec.hidden_size
        if self.layout.is_same and not (rows or self.rotated):
            return Matrix.of(self.checkpoint, name)

        def transform(weight: Floats) -> Floats:
            weight = weight[rows] if rows else weight
            if self.rotated:
                weight = self._fold(weight, self._layer_norm_name(i, "attention"))
                weight = self._rotate_values(weight, heads) if kind == "v" else weight
            return self._widen(weight, kind, heads)

        return Matrix.of(self.checkpoint, name, transform, shape=(heads * self.layout.padded_size, columns))

    def _location(self, i: int, kind: str) -> tuple[str, slice | None]:
        """Name of a projection's tensor, and its rows there if several projections share it."""
        attention = f"model.layers.{i}.self_attn"
        if f"{attention}.qkv_proj.weight" not in self._names:
            return f"{attention}.{kind}_proj.weight", None
        heads, kv_heads, size = self.spec.heads, self.spec.kv_heads, self.spec.head_size
        bounds = np.cumsum([0, heads, kv_heads, kv_heads]) * size
        place = "qkv".index(kind)
        return f"{attention}.qkv_proj.weight", slice(int(bounds[place]), int(bounds[place + 1]))

    def qkv_bias(self, i: int) -> Floats | None:
        """((heads + 2 · kv_heads) · padded head size,), or None."""
        parts = []
        for kind, heads in (("q", self.spec.heads), ("k", self.spec.kv_heads), ("v", self.spec.kv_heads)):
            name = f"model.layers.{i}.self_attn.{kind}_proj.bias"
            size = heads * self.spec.head_size
            bias = self.checkpoint.tensor(name) if name in self._names else np.zeros(size, np.float32)
            if kind == "v" and self.rotated:
                bias = self._rotate_values(bias[:, None], heads)[:, 0]
            parts.append(self._widen(bias[:, None], kind, heads)[:, 0])
        present = any(f"model.layers.{i}.self_attn.{kind}_proj.bias" in self._names for kind in "qkv")
        return np.concatenate(parts) if present else None

    def output(self, i: int) -> Matrix:
        """The projection behind attention: (hidden, heads · padded head size)."""
        name, spec = f"model.layers.{i}.self_attn.o_proj.weight", self.spec
        if self.layout.is_same and not self.rotated:
            return Matrix.of(self.checkpoint, name)

        def transform(weight: Floats) -> Floats:
            if self.rotated:
                weight = self._stream_rotation.T @ weight
                heads = weight.reshape(-1, spec.heads, spec.head_size) @ self._head_rotation
                weight = heads.reshape(weight.shape)
            return np.ascontiguousarray(self.layout.widen(weight.T, spec.heads).T)

        shape = (spec.hidden_size, spec.heads * self.layout.padded_size)
        return Matrix.of(self.checkpoint, name, transform, shape=shape)

    def output_bias(self, i: int) -> Floats | None:
        """(hidden,), or None."""
        return self._writing_bias(f"model.layers.{i}.self_attn.o_proj.bias")

    def gate(self, i: int) -> Matrix:
        """(feed-forward size, hidden)."""
        return self._gate_or_up(i, "gate_proj", 0)

    def up(self, i: int) -> Matrix:
        """(feed-forward size, hidden)."""
        return self._gate_or_up(i, "up_proj", 1)

    def _gate_or_up(self, i: int, kind: str, half: int) -> Matrix:
        mlp, norm = f"model.layers.{i}.mlp", self._layer_norm_name(i, self._mlp_norm)
        fused = f"{mlp}.gate_up_proj.weight"
        if fused not in self._names:
            return self._reading(f"{mlp}.{kind}.weight", norm)
        rows, columns = self.checkpoint.shape(fused)
        size = rows // 2

        def transform(weight: Floats) -> Floats:
            weight = weight[half * size : (half + 1) * size]
            return self._fold(weight, norm) if self.rotated else weight

        return Matrix.of(self.checkpoint, fused, transform, shape=(size, columns))

    @property
    def _mlp_norm(self) -> str:
        return "attention" if self.spec.residual == "parallel" else "mlp"

    def down(self, i: int) -> Matrix:
        """(hidden, feed-forward size)."""
        name = f"model.layers.{i}.mlp.down_proj.weight"
        if not self.rotated:
            return Matrix.of(self.checkpoint, name)
        return Matrix.of(self.checkpoint, name, lambda weight: self._stream_rotation.T @ weight)

    def mlp_bias(self, i: int, kind: Literal["gate_proj", "up_proj", "down_proj"]) -> Floats | None:
        """The bias of one of the three projections, or None."""
        name = f"model.layers.{i}.mlp.{kind}.bias"
        if kind == "down_proj":
            return self._writing_bias(name)
        return self.checkpoint.tensor(name) if name in self._names else None

    def norm(self, place: str, i: int | None = None) -> tuple[Floats, Floats | None]:
        """Weight and bias of the norm at ``place`` (of layer ``i``, or the final one): (hidden,) each."""
        name = "model.norm.weight" if i is None else self._layer_norm_name(i, place)
        bias = name.removesuffix("weight") + "bias"
        if self.rotated:
            return np.ones(self.spec.hidden_size, np.float32), None
        return self._norm_weight(name), self.checkpoint.tensor(bias) if bias in self._names else None

    def query_or_key_norm(self, i: int, kind: Literal["q", "k"]) -> tuple[Floats, float]:
        """Weight and epsilon of the norm of queries or keys.

        The weight has the size of a head in the graph where each head is normed by itself, else of all heads.
        """
        weight = self._norm_weight(f"model.layers.{i}.self_attn.{kind}_norm.weight")
        heads = len(weight) // self.spec.head_size
        # The mean of squares is taken over the zeros of wider heads, too.
        share = self.layout.size / self.layout.padded_size
        scaled = weight[:, None] * np.float32(math.sqrt(share))
        return self.layout.widen_rotary(scaled, heads)[:, 0], self.spec.norm_epsilon * share

    def _layer_norm_name(self, i: int, place: str) -> str:
        return f"model.layers.{i}.{_NORM_TENSORS[self.spec.residual][place]}.weight"

    def _norm_weight(self, name: str) -> Floats:
        if name not in self._names:
            raise ModelError(f"the checkpoint has no tensor {name!r}")
        weight: Floats = self.checkpoint.tensor(name) + np.float32(self.spec.norm_offset)
        return weight

    def _reading(self, name: str, norm: str) -> Matrix:
        """A matrix that reads the normed residual stream."""
        if not self.rotated:
            return Matrix.of(self.checkpoint, name)
        return Matrix.of(self.checkpoint, name, lambda weight: self._fold(weight, norm))

    def _fold(self, weight: Floats, norm: str) -> Floats:
        scaled: Floats = weight * self._norm_weight(norm)
        return scaled @ self._stream_rotation

    def _writing_bias(self, name: str) -> Floats | None:
        if name not in self._names:
            return None
        bias = self.checkpoint.tensor(name)
        return bias @ self._stream_rotation if self.rotated else bias

    def _rotate_values(self, weight: Floats, heads: int) -> Floats:
        by_head = weight.reshape(heads, self.spec.head_size, -1)
        rotated: Floats = self._head_rotation.T @ by_head
        return rotated.reshape(weight.shape)

    def _widen(self, rows: Floats, kind: str, heads: int) -> Floats:
        return self.layout.widen(rows, heads) if kind == "v" else self.layout.widen_rotary(rows, heads)
