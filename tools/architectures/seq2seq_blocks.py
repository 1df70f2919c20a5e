"""The operators of encoder-decoders' graphs: linear layers, norms, the three attentions, and T5's bias by distance."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

from edgelm_tools.architectures.seq2seq_spec import Activation
from edgelm_tools.architectures.seq2seq_weights import Linear, Norm, padded_head_size
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
        matrix, bias = linear
        product = self.scheme.linear(self.g, x, name, matrix, rows=rows)
        if bias is None:
            return product
        return self.g.node("Add", [product, self.g.constant(f"{name}.bias", bias, np.float32)], name=f"{name}.biased")

    def scaled(self, x: str, factor: float, name: str) -> str:
        """x times a constant."""
        return self.g.node("Mul", [x, self.g.constant(f"{name}.factor", factor, np.float32)], name=name)

    def cast(self, x: str, dtype: type[np.int32] | type[np.int64], name: str) -> str:
        """x as whole numbers of another width."""
        return self.g.node("Cast", [x], name=name, to=TensorProto.INT32 if dtype is np.int32 else TensorProto.INT64)

    def activated(self, x: str, activation: Activation, name: str) -> str:
        """The activation of a feed-forward layer."""
        if activation == "relu":
            return self.g.node("Relu", [x], name=name)
        if activation == "silu":
            return self.g.node("QuickGelu", [x], name=name, domain=MICROSOFT, alpha=1.0)
        return self.g.node("Gelu", [x], name=name, approximate="tanh" if activation == "gelu_tanh" else "none")

    def norm(self, x: str, norm: Norm, name: str) -> str:
        """The norm of x."""
        op = "SimplifiedLayerNormalization" if self.kind == "rms" else "LayerNormalization"
        return self.g.node(op, [x, *self._norm_weights(norm, name)], name=name, epsilon=self.epsilon)

    def join(self, stream: str, update: str, norm: Norm, name: str) -> tuple[str, str]:
        """Adds an update to the stream and norms the sum: (sum, normed sum); one operator does both."""
        if not update:
            return stream, self.norm(stream, norm, name)
        outputs = [f"{name}.out", "", "", f"{name}.sum"]
        op = "SkipSimplifiedLayerNormalization" if self.kind == "rms" else "SkipLayerNormalization"
        inputs = [stream, update, *self._norm_weights(norm, name)]
        normed = self.g.node(op, inputs, name=name, outputs=outputs, domain=MICROSOFT, epsilon=self.epsilon)
        return outputs[3], normed

    def _norm_weights(self, norm: Norm, name: str) -> list[str]:
        kinds = zip(("weight", "bias"), norm, strict=True)
        return [self.g.constant(f"{name}.{kind}", value, np.float32) for kind, value in kinds if value is not None]

    def encoder_attention(self, packed: str, mask: str, bias: str, stack: Heads, name: str) -> str:
        """Packed queries, keys and values (B, L, 3 · heads · size), mask int32 (B, L) → (B, L, heads · size)."""
        parts = [f"{name}.{kind}" for kind in ("q", "k", "v")]
        sizes = self.g.constant("widths", [stack.heads * stack.head_size] * 3, np.int64)
        self.g.node("Split", [packed, sizes], name=f"{name}.split", outputs=parts, axis=-1)
        return self._multi_head([*parts, "", mask, bias], stack, name)

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
        g, name = self.g, f"layer{i}.attention"
        shape = ("batch", stack.heads, "capacity", padded_head_size(stack.head_size))
        past = [g.input(f"past_key_values.{i}.{kind}", np.float32, shape) for kind in ("key", "value")]
        present = [g.output(f"present.{i}.{kind}", np.float32, shape) for kind in ("key", "value")]
        inputs = [packed, "", "", *past, "seqlens_k", "total_sequence_length", *(["", "", "", bias] if bias else [])]
        return g.node(
            "GroupQueryAttention",
            inputs,
            name=name,
            outputs=[f"{name}.out", *present],
            domain=MICROSOFT,
            num_heads=stack.heads,
            kv_num_heads=stack.heads,
            scale=stack.scale,
        )

    def cross_attention(self, query: str, i: int, stack: Heads) -> str:
        """Attention of layer i over the source: query (B, S, heads · size) → the same shape."""
        shape = ("batch", stack.heads, "source", stack.head_size)
        source = [self.g.input(f"cross_key_values.{i}.{kind}", np.float32, shape) for kind in ("key", "value")]
        return self._multi_head([query, *source, "", "encoder_attention_mask"], stack, f"layer{i}.cross")

    def _multi_head(self, inputs: list[str], stack: Heads, name: str) -> str:
        given = inputs if inputs[-1] else inputs[:-1]
        return self.g.node(
            "MultiHeadAttention",
            given,
            name=name,
            domain=MICROSOFT,
            num_heads=stack.heads,
            scale=stack.scale,
            mask_filter_value=_MASKED,
        )

    def first_rows(self, table: str, ids: str, name: str) -> str:
        """As many rows of a table as ids (B, L) has columns: (L, columns)."""
        zero = self.g.constant("first_axis", [0], np.int64)
        return self.g.node("Slice", [table, zero, self._length(ids), zero], name=name)

    def bias_both_ways(self, ids: str, table: NDArray[np.float32], name: str) -> str:
        """The bias of an encoder's scores by distance, (1, heads, L, L), of a table (heads, 2 · max_distance + 1)."""
        g, most = self.g, table.shape[1] // 2
        if not g.makes("distance.index.out"):
            length = g.node("Squeeze", [self._length(ids)], name="length.scalar")
            places = self._range(length, "places")
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
        length = g.node("Squeeze", [self._length(ids)], name="length.scalar")
        valid = g.node("Add", [self.cast("seqlens_k", np.int64, "valid.last"), one], name="valid")
        begun = g.node("Max", [g.node("Sub", [valid, length], name="past"), zero], name="past.tokens")
        axes = g.constant("last_axes", [1, 2], np.int64)
        begin = g.node("Unsqueeze", [begun, axes], name="past.column")
        new = g.node(
            "Unsqueeze", [self._range(length, "new"), g.constant("last_axis", [-1], np.int64)], name="new.column"
        )
        query = g.node("Add", [begin, new], name="query.places")
        total = self.cast("total_sequence_length", np.int64, "total")
        distance = g.node("Sub", [query, self._range(total, "key.places")], name="distance")
        bounds = [zero, g.constant("distance.most", most, np.int64)]
        g.node("Clip", [distance, *bounds], name="distance.clipped")

    def _length(self, ids: str) -> str:
        """How many columns ids (B, L) has: (1,)."""
        if not self.g.makes("length.out"):
            shape = self.g.node("Shape", [ids], name="ids.shape")
            self.g.node("Gather", [shape, self.g.constant("column_axis", [1], np.int64)], name="length", axis=0)
        return "length.out"

    def _range(self, stop: str, name: str) -> str:
        ends = [self.g.constant(f"number_{n}", n, np.int64) for n in (0, 1)]
        return self.g.node("Range", [ends[0], stop, ends[1]], name=name)

    def take(self, x: str, wanted: str, width: int) -> str:
        """The wanted rows of x (B, S, width): (1, rows, width)."""
        shape = self.g.constant("all_rows", [1, -1, width], np.int64)
        rows = self.g.node("Reshape", [x, shape], name="final.rows")
        return self.g.node("Gather", [rows, wanted], name="final.wanted", axis=1)

    def logits(self, logits: str, bias: NDArray[np.float32] | None, vocab_size: int) -> None:
        """The graph's output ``logits`` (rows, vocabulary), of (1, rows, vocabulary) and a bias."""
        g = self.g
        if bias is not None:
            logits = g.node("Add", [logits, g.constant("logits.bias", bias, np.float32)], name="logits.biased")
        flat = g.constant("logits.shape", [-1, vocab_size], np.int64)
        output = g.output("logits", np.float32, ("rows", vocab_size))
        g.node("Reshape", [logits, flat], name="logits", outputs=[output])
