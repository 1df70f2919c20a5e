"""The weights of a LLaMA-family checkpoint as the graph wants them: fused, padded, and rotated if asked for.

Padding: see ``head_layout.py``. Rotation: see ``quantize/rotation.py``; norm weights then move into the matrices behind
them, and the residual stream and the values of each head are multiplied by orthogonal matrices.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from edgelm_tools.architectures.decoder_layers import Floats, NormWeights
from edgelm_tools.architectures.decoder_weights import DecoderWeights
from edgelm_tools.architectures.llama_spec import LlamaSpec
from edgelm_tools.architectures.llama_tensors import EMBEDDING, FINAL_NORM, HEAD, NORMS, check_tensors, text_part
from edgelm_tools.matrix import Matrix, read_tensor


@dataclass(frozen=True)
class LlamaWeights(DecoderWeights):
    """Reads the checkpoint's tensors, one at a time, as matrices and vectors of the graph.

    Raises:
        ModelError: a tensor is missing, or of another shape than the configuration says; names it.
        UnsupportedModelError: the checkpoint has a tensor that such a model does not; names it.
    """

    spec: LlamaSpec

    def __post_init__(self) -> None:
        object.__setattr__(self, "checkpoint", text_part(self.checkpoint))
        check_tensors(self.checkpoint, self.spec)

    def embedding(self) -> Matrix:
        """(vocabulary, hidden)."""
        table = Matrix.of(self.checkpoint, EMBEDDING)
        return table.mapped(lambda rows: rows @ self._stream_rotation) if self.rotated else table

    def head(self) -> Matrix:
        """(vocabulary, hidden)."""
        return self._reading(EMBEDDING if self.spec.tied_embeddings else HEAD, "final")

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
                weight = self._fold(weight, "attention", i)
                weight = self._rotated_heads(weight, heads) if kind == "v" else weight
            return self._widen(weight, kind, heads)

        return Matrix.of(self.checkpoint, name, transform, shape=(heads * self.layout.padded_size, columns))

    def _location(self, i: int, kind: str) -> tuple[str, slice | None]:
        """Name of a projection's tensor, and its rows there if several projections share it."""
        attention = f"model.layers.{i}.self_attn"
        if f"{attention}.qkv_proj.weight" not in self._stored:
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
            bias = read_tensor(self.checkpoint, name) if name in self._stored else np.zeros(size, np.float32)
            if kind == "v" and self.rotated:
                bias = self._rotated_heads(bias[:, None], heads)[:, 0]
            parts.append(self._widen(bias[:, None], kind, heads)[:, 0])
        present = any(f"model.layers.{i}.self_attn.{kind}_proj.bias" in self._stored for kind in "qkv")
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
        mlp, place = f"model.layers.{i}.mlp", "attention" if self.spec.residual == "parallel" else "mlp"
        fused = f"{mlp}.gate_up_proj.weight"
        if fused not in self._stored:
            return self._reading(f"{mlp}.{kind}.weight", place, i)
        rows, columns = self.checkpoint.shape(fused)
        size = rows // 2

        def transform(weight: Floats) -> Floats:
            weight = weight[half * size : (half + 1) * size]
            return self._fold(weight, place, i) if self.rotated else weight

        return Matrix.of(self.checkpoint, fused, transform, shape=(size, columns))

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
        return read_tensor(self.checkpoint, name) if name in self._stored else None

    def final_norm(self) -> NormWeights:
        """The norm before the output head: (hidden,) each."""
        return self.norm("final")

    def norm(self, place: str, i: int | None = None) -> NormWeights:
        """Weight and bias of the norm at ``place`` (of layer ``i``, or the final one): (hidden,) each."""
        name = self._norm_name(place, i)
        bias = name.removesuffix("weight") + "bias"
        if self.rotated:
            return np.ones(self.spec.hidden_size, np.float32), None
        return self._norm_weight(name), read_tensor(self.checkpoint, bias) if bias in self._stored else None

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

    def _norm_name(self, place: str, i: int | None) -> str:
        return FINAL_NORM if i is None else f"model.layers.{i}.{NORMS[self.spec.residual][place]}.weight"

    def _norm_weight(self, name: str) -> Floats:
        weight: Floats = read_tensor(self.checkpoint, name) + np.float32(self.spec.norm_offset)
        return weight

    def _reading(self, name: str, place: str, i: int | None = None) -> Matrix:
        """A matrix that reads the residual stream behind the norm at ``place``."""
        matrix = Matrix.of(self.checkpoint, name)
        return matrix.mapped(lambda rows: self._fold(rows, place, i)) if self.rotated else matrix

    def _fold(self, weight: Floats, place: str, i: int | None) -> Floats:
        scaled: Floats = weight * self._norm_weight(self._norm_name(place, i))
        return scaled @ self._stream_rotation

    def _writing_bias(self, name: str) -> Floats | None:
        if name not in self._stored:
            return None
        bias = read_tensor(self.checkpoint, name)
        return bias @ self._stream_rotation if self.rotated else bias

    def _widen(self, rows: Floats, kind: str, heads: int) -> Floats:
        return self.layout.widen(rows, heads) if kind == "v" else self.layout.widen_rotary(rows, heads)
