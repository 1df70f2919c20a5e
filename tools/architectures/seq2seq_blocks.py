"""The operators of encoder-decoders' graphs: linear layers, norms, the three attentions, and T5's bias by distance."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

from edgelm_tools.architectures import decoder_layers
from edgelm_tools.architectures.decoder_layers import Activation, Linear, Norm, NormWeights
from edgelm_tools.architectures.head_layout import layout_of_heads
from edgelm_tools.graph import MICROSOFT, GraphBuilder
from edgelm_tools.quantize.scheme import Rows, Scheme

# What is added to the scores of padding: its share becomes 0 whatever the other scores are.
_MASKED = float(np.finfo(np.float32).min)


class Heads(Protocol):
    """The shape of a stack's attentions."""

    @property
    def heads(self) -> int:
        """How many there are."""
        ...

    @property
    def head_size(self) -> int:
        """Width of each."""
        ...

    @property
    def scale(self) -> float:
        """Factor of the scores."""
        ...


@dataclass(frozen=True, slots=True)
class Blocks:
    """Adds operators to a graph; every method returns the name of its result.

    Args:
        norm: whether norms subtract the mean (``layer``) or not (``rms``); ``epsilon``: theirs.
    """

    g: GraphBuilder
    scheme: Scheme
    kind: Literal["rms", "layer"]
    epsilon: float

    def linear(self, x: str, name: str, linear: Linear, *, rows: Rows = "normed") -> str:
        """x (…, K) → (…, N), with the bias if there is one."""
        return decoder_layers.linear(self.g, self.scheme, x, name, *linear, rows=rows)

    def scaled(self, x: str, factor: float, name: str) -> str:
        """x times a constant."""
        return decoder_layers.scaled(self.g, x, factor, name)

    def cast(self, x: str, dtype: type[np.int32] | type[np.int64], name: str) -> str:
        """x as whole numbers of another width."""
        return self.g.node("Cast", [x], name=name, to=TensorProto.INT32 if dtype is np.int32 else TensorProto.INT64)

    def activated(self, x: str, activation: Activation, name: str) -> str:
        """The activation of a feed-forward layer."""
        return decoder_layers.activated(self.g, x, activation, name)

    def norm(self, x: str, norm: NormWeights, name: str) -> str:
        """The norm of x."""
        return self._norm.of(x, norm, name)

    def join(self, stream: str, update: str, norm: NormWeights, name: str) -> tuple[str, str]:
        """Adds an update to the stream and norms the sum: (sum, normed sum); one operator does both."""
        return self._norm.of_sum(stream, update, norm, name, name)

    @property
    def _norm(self) -> Norm:
        return Norm(self.g, self.kind, self.epsilon)

    def encoder_attention(self, packed: str, mask: str, bias: str, stack: Heads, name: str) -> str:
        """Packed queries, keys and values (B, L, 3 · heads · size), mask int32 (B, L) → (B, L, heads · size)."""
        return self._multi_head([*self._split(packed, 3, stack, name), "", mask, bias], stack, name)

    def causal_attention(self, packed: str, bias: str, stack: Heads, name: str) -> str:
        """The same without a mask, for which tokens see those before them only."""
        return self._multi_head([*self._split(packed, 3, stack, name), "", "", bias], stack, name, unidirectional=1)

    def whole_cross_attention(self, query: str, packed: str, mask: str, stack: Heads, name: str) -> str:
        """Queries (B, S, heads · size) over packed keys and values (B, L, 2 · heads · size), mask int32 (B, L)."""
        return self._multi_head([query, *self._split(packed, 2, stack, name), "", mask], stack, name)

    def _split(self, packed: str, count: int, stack: Heads, name: str) -> list[str]:
        """The last ``count`` of queries, keys and values."""
        parts = [f"{name}.{kind}" for kind in ("q", "k", "v")[-count:]]
        sizes = self.g.constant(f"widths_of_{count}", [stack.heads * stack.head_size] * count, np.int64)
        self.g.node("Split", [packed, sizes], name=f"{name}.split", outputs=parts, axis=-1)
        return parts

    def cross_outputs(self, both: str, i: int, stack: Heads) -> None:
        """Keys and values (B, L, 2 · heads · size) → the graph's outputs for layer i, (B, heads, L, size) each."""
        g, name, shape = self.g, f"cross{i}", ("batch", stack.heads, "sequence", stack.head_size)
        sizes = g.constant("cross.shape", [0, 0, 2 * stack.heads, stack.head_size], np.int64)
        by_head = g.node("Reshape", [both, sizes], name=f"{name}.by_head")
        turned = g.node("Transpose", [by_head], name=f"{name}.turned", perm=[0, 2, 1, 3])
        halves = g.constant("cross.halves", [stack.heads] * 2, np.int64)
        outputs = [g.output(f"cross_key_values.{i}.{kind}", np.float32, shape) for kind in ("key", "value")]
        g.node("Split", [turned, halves], name=f"{name}.split", outputs=outputs, axis=1)

    def decoder_attention(self, packed: str, bias: str, i: int, stack: Heads) -> str:
        """Self-attention of layer i over the cache: packed (B, S, 3 · heads · padded size) → (B, S, heads · padded)."""
        return decoder_layers.cached_attention(
            self.g,
            i,
            [packed, "", ""],
            num_heads=stack.heads,
            kv_num_heads=stack.heads,
            head_size=layout_of_heads(stack.head_size).padded_size,
            bias=bias,
            scale=stack.scale,
        )

    def cross_attention(self, query: str, i: int, stack: Heads) -> str:
        """Attention of layer i over the source: query (B, S, heads · size) → the same shape."""
        shape = ("batch", stack.heads, "source", stack.head_size)
        source = [self.g.input(f"cross_key_values.{i}.{kind}", np.float32, shape) for kind in ("key", "value")]
        return self._multi_head([query, *source, "", "encoder_attention_mask"], stack, f"layer{i}.cross")

    def _multi_head(self, inputs: list[str], stack: Heads, name: str, *, unidirectional: int | None = None) -> str:
        while not inputs[-1]:
            inputs = inputs[:-1]
        return self.g.node(
            "MultiHeadAttention",
            inputs,
            name=name,
            domain=MICROSOFT,
            num_heads=stack.heads,
            scale=stack.scale,
            mask_filter_value=_MASKED,
            unidirectional=unidirectional,
        )

    def first_rows(self, table: str, ids: str, name: str) -> str:
        """As many rows of a table as ids (B, L) has columns: (L, columns)."""
        zero = self.g.constant("first_axis", [0], np.int64)
        return self.g.node("Slice", [table, zero, self.length(ids), zero], name=name)

    def bias_both_ways(self, ids: str, table: NDArray[np.float32], name: str) -> str:
        """The bias of an encoder's scores by distance, (1, heads, L, L), of a table (heads, 2 · max_distance + 1)."""
        g, most = self.g, table.shape[1] // 2
        if not g.makes("distance.index.out"):
            length = g.node("Squeeze", [self.length(ids)], name="length.scalar")
            places = self.count_up(length, "places")
            column = g.node("Unsqueeze", [places, g.constant("last_axis", [-1], np.int64)], name="places.column")
            distance = g.node("Sub", [places, column], name="distance")
            bounds = [g.constant("distance.least", -most, np.int64), g.constant("distance.most", most, np.int64)]
            clipped = g.node("Clip", [distance, *bounds], name="distance.clipped")
            g.node("Add", [clipped, "distance.most"], name="distance.index")
        values = g.constant(f"{name}.table", table, np.float32)
        by_head = g.node("Gather", [values, "distance.index.out"], name=f"{name}.by_head", axis=1)
        return g.node("Unsqueeze", [by_head, g.constant("first_axis", [0], np.int64)], name=name)

    def bias_back(self, ids: str, table: NDArray[np.float32], name: str) -> str:
        """The bias of a decoder's scores by distance, (B, heads, S, total), of a table (heads, max_distance + 1)."""
        g, most = self.g, table.shape[1] - 1
        if not g.makes("distance.clipped.out"):
            self._distances_back(ids, most)
        values = g.constant(f"{name}.table", table, np.float32)
        by_head = g.node("Gather", [values, "distance.clipped.out"], name=f"{name}.by_head", axis=1)
        return g.node("Transpose", [by_head], name=name, perm=[1, 0, 2, 3])

    def _distances_back(self, ids: str, most: int) -> None:
        """How far each new token is behind each token of the cache, (B, S, total), 0 … most.

        The new tokens of a row begin behind those it has; a row that is shorter than its padding had none.
        """
        g = self.g
        zero, one = (g.constant(f"number_{n}", n, np.int64) for n in (0, 1))
        length = g.node("Squeeze", [self.length(ids)], name="length.scalar")
        valid = g.node("Add", [self.cast("seqlens_k", np.int64, "valid.last"), one], name="valid")
        begun = g.node("Max", [g.node("Sub", [valid, length], name="past"), zero], name="past.tokens")
        axes = g.constant("last_axes", [1, 2], np.int64)
        begin = g.node("Unsqueeze", [begun, axes], name="past.column")
        new = g.node(
            "Unsqueeze", [self.count_up(length, "new"), g.constant("last_axis", [-1], np.int64)], name="new.column"
        )
        query = g.node("Add", [begin, new], name="query.places")
        total = self.cast("total_sequence_length", np.int64, "total")
        distance = g.node("Sub", [query, self.count_up(total, "key.places")], name="distance")
        bounds = [zero, g.constant("distance.most", most, np.int64)]
        g.node("Clip", [distance, *bounds], name="distance.clipped")

    def length(self, ids: str) -> str:
        """How many columns ids (B, L) has: (1,)."""
        if not self.g.makes("length.out"):
            shape = self.g.node("Shape", [ids], name="ids.shape")
            self.g.node("Gather", [shape, self.g.constant("column_axis", [1], np.int64)], name="length", axis=0)
        return "length.out"

    def count_up(self, stop: str, name: str) -> str:
        """The numbers from 0 to below a number (): (stop,) int64."""
        ends = [self.g.constant(f"number_{n}", n, np.int64) for n in (0, 1)]
        return self.g.node("Range", [ends[0], stop, ends[1]], name=name)

    def logits(self, logits: str, bias: NDArray[np.float32] | None, vocab_size: int) -> None:
        """The graph's output ``logits`` (rows, vocabulary), of (1, rows, vocabulary) and a bias."""
        if bias is not None:
            constant = self.g.constant("logits.bias", bias, np.float32)
            logits = self.g.node("Add", [logits, constant], name="logits.biased")
        decoder_layers.give_logits(self.g, logits, vocab_size)
