"""The weights of an encoder-decoder's checkpoint as its graphs want them: fused, and padded where attention needs it.

GroupQueryAttention, the decoder's self-attention, takes head sizes that are multiples of 8: others are widened with
zeros, which change no dot product.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from edgelm.errors import ModelError, UnsupportedModelError
from edgelm_tools.architectures.decoder_layers import Floats, Linear, NormWeights
from edgelm_tools.architectures.head_layout import HeadLayout, layout_of_heads
from edgelm_tools.architectures.positions import (
    buckets_back,
    buckets_both_ways,
    split_sinusoids,
    tensor2tensor_sinusoids,
)
from edgelm_tools.architectures.seq2seq_spec import (
    ROLES,
    AttentionNames,
    FeedForwardNames,
    Positions,
    Role,
    Seq2SeqSpec,
)
from edgelm_tools.checkpoint.base import Checkpoint
from edgelm_tools.matrix import Matrix, read_tensor


@dataclass(frozen=True)
class Seq2SeqWeights:
    """Reads the checkpoint's tensors, one at a time, as matrices and vectors of the graphs.

    Raises:
        ModelError: a tensor is missing, or of another shape than the configuration says; names it.
        UnsupportedModelError: the checkpoint has a tensor that such a model does not; names it.
    """

    checkpoint: Checkpoint
    spec: Seq2SeqSpec

    def __post_init__(self) -> None:
        needed = dict(self._needed())
        for name, shape in {**needed, **self._optional()}.items():
            if name not in self._names and name in needed:
                raise ModelError(f"the checkpoint has no tensor {name!r}")
            if name in self._names and self.checkpoint.shape(name) != shape:
                found = self.checkpoint.shape(name)
                raise ModelError(f"tensor {name!r} has shape {found}; by config.json it is {shape}")
        for name in sorted(self._names - needed.keys() - self._optional().keys() - set(self.spec.unused)):
            raise UnsupportedModelError(f"tensor {name!r:.120} is not one that this {self.spec.model_type} has")

    def parameters(self) -> int:
        """How many values the checkpoint has."""
        return sum(math.prod(self.checkpoint.shape(name)) for name in self._names)

    def embedding(self) -> Matrix:
        """The table of tokens: (vocabulary, hidden)."""
        return Matrix.of(self.checkpoint, self._embedding)

    def head(self) -> Matrix:
        """The output head: (vocabulary, hidden)."""
        return Matrix.of(self.checkpoint, self._embedding if self.spec.tied else f"{self.spec.head}.weight")

    def logits_bias(self) -> Floats | None:
        """(vocabulary,), or None where there is none or it is all zeros."""
        name = self.spec.logits_bias
        if name is None or name not in self._names:
            return None
        bias = read_tensor(self.checkpoint, name).reshape(-1)
        return bias if bias.any() else None

    def positions(self, role: Role, positions: Positions) -> Floats:
        """A vector for each position from 0 on: (count, hidden)."""
        name, last = self.spec.stack(role).names.positions, positions.first + positions.count
        if f"{name}.weight" in self._names:
            return read_tensor(self.checkpoint, f"{name}.weight")[positions.first : last]
        table = split_sinusoids if positions.kind == "split" else tensor2tensor_sinusoids
        return table(last, self.spec.hidden_size)[positions.first :]

    def relative_bias(self, role: Role, i: int) -> Floats:
        """The bias of each head by distance: (heads, distances), see ``positions.py``."""
        relative = self.spec.relative_bias
        if relative is None:
            raise ValueError(f"a {self.spec.model_type} has no relative bias")
        buckets = buckets_both_ways if role == "encoder" else buckets_back
        values = read_tensor(self.checkpoint, relative.tensor(role, i))
        return np.ascontiguousarray(values[buckets(relative.buckets, relative.max_distance)].T)

    def causal_relative_bias(self, i: int) -> Floats:
        """The same of a decoder for keys on both sides; those ahead, which are not seen, have that of the token."""
        back = self.relative_bias("decoder", i)
        return np.concatenate([back[:, :0:-1], np.repeat(back[:, :1], back.shape[1], axis=1)], axis=1)

    def norm(self, name: str, factor: float = 1.0) -> NormWeights:
        """Weight and bias of a norm, whose results are to be multiplied by ``factor``: (hidden,) each."""
        weight = read_tensor(self.checkpoint, f"{name}.weight") * np.float32(factor)
        if self.spec.norm == "rms":
            return weight, None
        return weight, read_tensor(self.checkpoint, f"{name}.bias") * np.float32(factor)

    def linear(self, name: str) -> Linear:
        """A linear layer as the checkpoint has it."""
        return Matrix.of(self.checkpoint, f"{name}.weight"), self._bias(name)

    def biased(self, name: str) -> Linear:
        """A linear layer with a bias, also where the others have none."""
        return Matrix.of(self.checkpoint, f"{name}.weight"), read_tensor(self.checkpoint, f"{name}.bias")

    def stacked(self, names: list[str]) -> Linear:
        """Several linear layers that read the same, in one."""
        biases = [bias for name in names if (bias := self._bias(name)) is not None]
        matrices = [Matrix.of(self.checkpoint, f"{name}.weight") for name in names]
        return Matrix.stacked(matrices), np.concatenate(biases) if biases else None

    def padded_qkv(self, names: AttentionNames) -> Linear:
        """Queries, keys and values of the decoder's self-attention, in one: (3 · heads · padded head size, hidden)."""
        layout, heads, hidden = self._layout, self.spec.decoder.heads, self.spec.hidden_size
        kinds = [names.query, names.key, names.value]
        if layout.is_same:
            return self.stacked(kinds)
        shape = (heads * layout.padded_size, hidden)
        widened = [
            Matrix.of(self.checkpoint, f"{kind}.weight", lambda rows: layout.widen(rows, heads), shape=shape)
            for kind in kinds
        ]
        biases = [bias for kind in kinds if (bias := self._bias(kind)) is not None]
        columns = [layout.widen(bias[:, None], heads)[:, 0] for bias in biases]
        return Matrix.stacked(widened), np.concatenate(columns) if columns else None

    def padded_output(self, names: AttentionNames) -> Linear:
        """The projection behind the decoder's self-attention: (hidden, heads · padded head size)."""
        layout, heads = self._layout, self.spec.decoder.heads
        if layout.is_same:
            return self.linear(names.output)
        shape = (self.spec.hidden_size, heads * layout.padded_size)

        def widen(weight: Floats) -> Floats:
            return np.ascontiguousarray(layout.widen(weight.T, heads).T)

        return Matrix.of(self.checkpoint, f"{names.output}.weight", widen, shape=shape), self._bias(names.output)

    @cached_property
    def _layout(self) -> HeadLayout:
        return layout_of_heads(self.spec.decoder.head_size)

    @cached_property
    def _names(self) -> frozenset[str]:
        return frozenset(self.checkpoint.names())

    @cached_property
    def _embedding(self) -> str:
        """Whichever of the tied tensors the checkpoint has: older ones were saved with another of them, or all."""
        heads = (f"{self.spec.head}.weight",) if self.spec.tied else ()
        names = (*self.spec.embeddings, *heads)
        found: str | None = next((name for name in names if name in self._names), None)
        if found is None:
            raise ModelError(f"the checkpoint has no tensor {names[0]!r}")
        return found

    def _bias(self, name: str) -> Floats | None:
        return read_tensor(self.checkpoint, f"{name}.bias") if self.spec.biased else None

    def _needed(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        spec, hidden = self.spec, self.spec.hidden_size
        yield self._embedding, (spec.vocab_size, hidden)
        if not spec.tied:
            yield f"{spec.head}.weight", (spec.vocab_size, hidden)
        yield from spec.others.items()
        for role in ROLES:
            stack = spec.stack(role)
            for norm in (stack.names.embedding_norm, stack.names.final_norm):
                yield from self._norm_tensors(norm)
            if spec.positions and spec.positions.kind == "learned":
                yield f"{stack.names.positions}.weight", self._table_shape(spec.positions)
            for i in range(stack.layers):
                yield from self._layer_tensors(role, i)

    def _layer_tensors(self, role: Role, i: int) -> Iterator[tuple[str, tuple[int, ...]]]:
        spec, stack = self.spec, self.spec.stack(role)
        names, width = stack.layer(i), stack.heads * stack.head_size
        for attention in (names.self_attention, names.cross_attention):
            if attention is None:
                continue
            for kind in (attention.query, attention.key, attention.value):
                yield from self._linear_tensors(kind, width, spec.hidden_size)
            yield from self._linear_tensors(attention.output, spec.hidden_size, width)
            yield from self._norm_tensors(attention.norm)
        yield from self._feed_forward_tensors(names.feed_forward, stack.intermediate_size)
        relative = spec.relative_bias
        if relative and (relative.every_layer or i == 0):
            yield relative.tensor(role, i), (relative.buckets, stack.heads)

    def _feed_forward_tensors(self, names: FeedForwardNames, inner: int) -> Iterator[tuple[str, tuple[int, ...]]]:
        for name in names.inner:
            yield from self._linear_tensors(name, inner, self.spec.hidden_size)
        yield from self._linear_tensors(names.outer, self.spec.hidden_size, inner)
        yield from self._norm_tensors(names.norm)

    def _linear_tensors(self, name: str, rows: int, columns: int) -> Iterator[tuple[str, tuple[int, ...]]]:
        yield f"{name}.weight", (rows, columns)
        if self.spec.biased:
            yield f"{name}.bias", (rows,)

    def _norm_tensors(self, name: str | None) -> Iterator[tuple[str, tuple[int, ...]]]:
        if name is not None:
            yield f"{name}.weight", (self.spec.hidden_size,)
            if self.spec.norm == "layer":
                yield f"{name}.bias", (self.spec.hidden_size,)

    def _optional(self) -> dict[str, tuple[int, ...]]:
        """The other names of the one table, the bias of the logits, and positions that could as well be computed."""
        spec = self.spec
        table = (spec.vocab_size, spec.hidden_size)
        optional: dict[str, tuple[int, ...]] = dict.fromkeys(spec.embeddings, table)
        if spec.tied:
            optional[f"{spec.head}.weight"] = table
        if spec.logits_bias is not None:
            optional[spec.logits_bias] = (1, spec.vocab_size)
        if spec.positions and spec.positions.kind == "split":
            for role in ROLES:
                optional[f"{spec.stack(role).names.positions}.weight"] = self._table_shape(spec.positions)
        return optional

    def _table_shape(self, positions: Positions) -> tuple[int, int]:
        return positions.first + positions.count, self.spec.hidden_size
