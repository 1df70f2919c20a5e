"""The graph of the LLaMA family; its contract is that of ``decoder_graph.py``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from edgelm_tools.architectures.decoder_graph import DecoderGraph
from edgelm_tools.architectures.decoder_layers import (
    Norm,
    activated,
    cached_attention,
    give_logits,
    linear,
    scaled,
    take_rows,
)
from edgelm_tools.architectures.llama_spec import LlamaSpec
from edgelm_tools.architectures.llama_weights import LlamaWeights
from edgelm_tools.architectures.rope import Rope
from edgelm_tools.matrix import Matrix
from edgelm_tools.quantize.scheme import Rows

QUERY_AND_KEY: tuple[Literal["q", "k"], ...] = ("q", "k")


@dataclass(frozen=True, slots=True)
class LlamaGraph(DecoderGraph):
    """A decoder of the LLaMA family."""

    spec: LlamaSpec
    weights: LlamaWeights

    @property
    def _norm(self) -> Norm:
        return Norm(self.g, self.spec.norm, self.spec.norm_epsilon)

    def _embedded(self) -> tuple[str, str, str]:
        stream, table = self.scheme.embedding(self.g, "embed", self.weights.embedding())
        if self.spec.embedding_scale != 1:
            stream = scaled(self.g, stream, self.spec.embedding_scale, "embed.scaled")
        return stream, "", table

    def _layer(self, i: int, stream: str, update: str, bias: str, wanted: str | None) -> tuple[str, str]:
        name = f"layer{i}"
        stream, x = self._enter(i, stream, update, "attention")
        attended = self._attention(i, x)
        if wanted is not None:
            hidden, heads = self.spec.hidden_size, self.spec.heads * self.weights.layout.padded_size
            stream = take_rows(self.g, stream, wanted, hidden, f"{name}.stream")
            attended = take_rows(self.g, attended, wanted, heads, f"{name}.heads")
            if self.spec.residual == "parallel":
                x = take_rows(self.g, x, wanted, hidden, f"{name}.entry")
        update = self._linear(attended, f"{name}.o", self.weights.output(i), self.weights.output_bias(i), "uneven")
        if self.spec.residual == "parallel":
            return stream, self.g.node("Add", [update, self._mlp(i, x)], name=f"{name}.parallel")
        stream, x = self._enter(i, stream, self._leave(i, update, "attention"), "mlp")
        return stream, self._leave(i, self._mlp(i, x), "mlp")

    def _enter(self, i: int, stream: str, update: str, sublayer: str) -> tuple[str, str]:
        """(residual stream with the update added, input of the sublayer)."""
        norm = None if self.spec.residual == "post" else self.weights.norm(sublayer, i)
        return self._norm.of_sum(stream, update, norm, f"layer{i}.{sublayer}_norm", f"layer{i}.{sublayer}")

    @property
    def _entering(self) -> Rows:
        """What the inputs of the sublayers are like."""
        return "uneven" if self.spec.residual == "post" else "normed"

    def _leave(self, i: int, update: str, sublayer: str) -> str:
        """What a sublayer adds to the residual stream: normed and scaled where the model does that."""
        name = f"layer{i}.after_{sublayer}"
        if self.spec.residual in ("post", "sandwich"):
            update = self._norm.of(update, self.weights.norm(f"after_{sublayer}", i), f"{name}_norm")
        if self.spec.residual_scale != 1:
            update = scaled(self.g, update, self.spec.residual_scale, f"{name}_scaled")
        return update

    def _attention(self, i: int, x: str) -> str:
        """x (batch, sequence, hidden) → heads side by side (batch, sequence, heads · head size)."""
        g, spec, name, size = self.g, self.spec, f"layer{i}", self.weights.layout.padded_size
        packed = self._linear(x, f"{name}.qkv", self.weights.qkv(i), self.weights.qkv_bias(i), self._entering)
        heads = [packed, "", ""] if spec.qk_norm is None else self._normed_heads(i, packed)
        rope = spec.ropes[i]
        return cached_attention(
            g,
            i,
            heads,
            num_heads=spec.heads,
            kv_num_heads=spec.kv_heads,
            head_size=size,
            tables=self._tables(rope, f"rope{self._ropes.index(rope)}") if rope else None,
            scale=spec.attention_scale,
            softcap=spec.attention_softcap or None,
            local_window_size=spec.windows[i],
        )

    @property
    def _ropes(self) -> list[Rope]:
        """The rotary embeddings that differ."""
        return list(dict.fromkeys(rope for rope in self.spec.ropes if rope))

    def _normed_heads(self, i: int, packed: str) -> list[str]:
        """Queries, keys and values apart; a norm of each head stands in the graph, as attention has none on a CPU."""
        g, spec, size = self.g, self.spec, self.weights.layout.padded_size
        widths = [spec.heads * size, spec.kv_heads * size, spec.kv_heads * size]
        parts = [f"layer{i}.{kind}" for kind in ("q", "k", "v")]
        sizes = g.constant("widths", widths, np.int64)
        g.node("Split", [packed, sizes], name=f"layer{i}.split", outputs=parts, axis=-1)
        for place, kind in enumerate(QUERY_AND_KEY):
            name = parts[place]
            weight, epsilon = self.weights.query_or_key_norm(i, kind)
            norm = Norm(g, "rms", epsilon)
            if spec.qk_norm == "projection":
                parts[place] = norm.of(name, (weight, None), f"{name}.norm")
                continue
            by_head = self._reshaped(name, [0, 0, -1, size], f"{name}.by_head")
            normed = norm.of(by_head, (weight, None), f"{name}.norm")
            parts[place] = self._reshaped(normed, [0, 0, widths[place]], f"{name}.joined")
        return parts

    def _reshaped(self, x: str, shape: list[int], name: str) -> str:
        sizes = self.g.constant("shape_" + "_".join(map(str, shape)), shape, np.int64)
        return self.g.node("Reshape", [x, sizes], name=name)

    def _mlp(self, i: int, x: str) -> str:
        name, weights = f"layer{i}", self.weights
        gate = self._linear(x, f"{name}.gate", weights.gate(i), weights.mlp_bias(i, "gate_proj"), self._entering)
        up = self._linear(x, f"{name}.up", weights.up(i), weights.mlp_bias(i, "up_proj"), self._entering)
        active = activated(self.g, gate, self.spec.activation, f"{name}.activation")
        product = self.g.node("Mul", [active, up], name=f"{name}.gated")
        return self._linear(product, f"{name}.down", weights.down(i), weights.mlp_bias(i, "down_proj"), "heavy-tailed")

    def _linear(self, x: str, name: str, matrix: Matrix, bias: NDArray[np.float32] | None, rows: Rows) -> str:
        return linear(self.g, self.scheme, x, name, matrix, bias, rows)

    def _logits(self, x: str, table: str) -> None:
        g, spec = self.g, self.spec
        tied_to = table if self.weights.head_is_embedding else None
        logits = self.scheme.head(g, x, "head", self.weights.head(), tied_to)
        if spec.logit_scale != 1:
            logits = scaled(g, logits, spec.logit_scale, "logits.scaled")
        if spec.logit_softcap:
            small = scaled(g, logits, 1 / spec.logit_softcap, "logits.small")
            logits = scaled(g, g.node("Tanh", [small], name="logits.tanh"), spec.logit_softcap, "logits.capped")
        give_logits(g, logits, spec.vocab_size)
