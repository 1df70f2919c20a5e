"""The graph of the GPT family; its contract is that of ``decoder_graph.py``."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edgelm_tools.architectures.alibi import alibi_bias
from edgelm_tools.architectures.decoder_graph import DecoderGraph
from edgelm_tools.architectures.decoder_layers import (
    Norm,
    activated,
    cached_attention,
    give_logits,
    linear,
    take_rows,
)
from edgelm_tools.architectures.gpt_spec import GptSpec
from edgelm_tools.architectures.gpt_weights import GptWeights, Sublayer


@dataclass(frozen=True, slots=True)
class GptGraph(DecoderGraph):
    """A decoder of the GPT family."""

    spec: GptSpec
    weights: GptWeights

    @property
    def _norm(self) -> Norm:
        """Of a stream without a mean, LayerNorm is an RMS norm."""
        return Norm(self.g, "rms" if self.weights.rotated else "layer", self.spec.norm_epsilon)

    def _bias(self, x: str) -> str:
        return alibi_bias(self.g, x, self.spec.heads) if self.spec.positions == "alibi" else ""

    def _layer(self, i: int, stream: str, update: str, bias: str, wanted: str | None) -> tuple[str, str]:
        g, name, width = self.g, f"layer{i}", self.spec.heads * self.weights.layout.padded_size
        stream, x = self._enter(i, "attention", stream, update)
        attended = self._attention(i, x, bias)
        if wanted is not None:
            stream = take_rows(g, stream, wanted, self.spec.hidden_size, f"{name}.stream")
            attended = take_rows(g, attended, wanted, width, f"{name}.heads")
        update = linear(g, self.scheme, attended, f"{name}.o", *self.weights.output(i))
        if self.spec.residual == "parallel":
            _, x = self._enter(i, "mlp", stream, "")
            return stream, g.node("Add", [update, self._mlp(i, x)], name=f"{name}.parallel")
        stream, x = self._enter(i, "mlp", stream, update)
        return stream, self._mlp(i, x)

    def _embedded(self) -> tuple[str, str, str]:
        g, weights = self.g, self.weights
        stream, table = self.scheme.embedding(g, "embed", weights.embedding())
        norm = weights.embedding_norm()
        if norm is not None:
            stream = self._norm.of(stream, norm, "embed.norm")
        if self.spec.projects_embeddings:
            stream = self.scheme.linear(g, stream, "project_in", weights.project_in())
        update = ""
        if self.spec.positions == "learned":
            places = g.input("position_ids", np.int64, ("batch", "sequence"))
            update, _ = self.scheme.lookup(g, "positions", weights.positions(), places)
        return stream, update, table

    def _enter(self, i: int, sublayer: Sublayer, stream: str, update: str) -> tuple[str, str]:
        """(residual stream with the update added, input of the sublayer)."""
        name, norm = f"layer{i}.{sublayer}", self.weights.norm_before(sublayer, i)
        total, normed = self._norm.of_sum(stream, update, norm, f"{name}_norm", name)
        return (normed if self.spec.residual in ("post", "normed") else total), normed

    def _attention(self, i: int, x: str, bias: str) -> str:
        """x (batch, sequence, hidden) → heads side by side (batch, sequence, heads · head size)."""
        packed = linear(self.g, self.scheme, x, f"layer{i}.qkv", *self.weights.qkv(i), rows="normed")
        return cached_attention(
            self.g,
            i,
            [packed, "", ""],
            num_heads=self.spec.heads,
            kv_num_heads=self.spec.heads,
            head_size=self.weights.layout.padded_size,
            tables=self._tables(self.spec.rope, "rope") if self.spec.rope else None,
            bias=bias,
            scale=self.spec.attention_scales[i],
        )

    def _mlp(self, i: int, x: str) -> str:
        g, name = self.g, f"layer{i}"
        inner = linear(g, self.scheme, x, f"{name}.up", *self.weights.up(i), rows="normed")
        active = activated(g, inner, self.spec.activation, f"{name}.activation")
        return linear(g, self.scheme, active, f"{name}.down", *self.weights.down(i), rows="heavy-tailed")

    def _logits(self, x: str, table: str) -> None:
        g, spec = self.g, self.spec
        if spec.projects_embeddings:
            x = self.scheme.linear(g, x, "project_out", self.weights.project_out())
        matrix, bias = self.weights.head()
        logits = self.scheme.head(g, x, "head", matrix, table if self.weights.head_is_embedding else None)
        if bias is not None:
            logits = g.node("Add", [logits, g.constant("head.bias", bias, np.float32)], name="head.biased")
        give_logits(g, logits, spec.vocab_size)
