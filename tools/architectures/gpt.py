"""The graph of the GPT family: one decoder step, from token ids and a KV cache to logits.

The contract is that of ``llama.py``; models with learned positions also take ``position_ids int64 (B, S)``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from edgelm_tools.architectures.alibi import alibi_bias
from edgelm_tools.architectures.decoder_layers import (
    Norm,
    activated,
    cached_attention,
    declare_lengths,
    give_logits,
    linear,
    take_rows,
)
from edgelm_tools.architectures.gpt_spec import GptSpec
from edgelm_tools.architectures.gpt_weights import GptWeights, Sublayer
from edgelm_tools.graph import GraphBuilder
from edgelm_tools.quantize.scheme import Scheme

_TABLES = "rope.cos", "rope.sin"


def build_decoder(
    g: GraphBuilder,
    spec: GptSpec,
    weights: GptWeights,
    scheme: Scheme,
    *,
    done: Callable[[], None] = lambda: None,
) -> None:
    """Adds the whole step to the graph; weights are read and written layer by layer, and ``done`` told of each."""
    _Decoder(g, spec, weights, scheme).build(done)


def build_layer(g: GraphBuilder, spec: GptSpec, weights: GptWeights, scheme: Scheme, i: int) -> None:
    """Adds one layer alone, as ``llama.build_layer`` does."""
    shape = ("batch", "sequence", spec.hidden_size)
    stream, update = g.input("stream", np.float32, shape), g.input("update", np.float32, shape)
    declare_lengths(g)
    decoder = _Decoder(g, spec, weights, scheme)
    results = decoder.layer(i, stream, update, decoder.bias(stream), None)
    for name, result in zip(("next_stream", "next_update"), results, strict=True):
        g.node("Identity", [result], name=name, outputs=[g.output(name, np.float32, shape)])


@dataclass(frozen=True, slots=True)
class _Decoder:
    g: GraphBuilder
    spec: GptSpec
    weights: GptWeights
    scheme: Scheme

    def build(self, done: Callable[[], None]) -> None:
        g, spec = self.g, self.spec
        declare_lengths(g)
        wanted = g.input("logit_index", np.int64, ("rows",))
        stream, update, table = self._embedded()
        bias = self.bias(stream)
        for i in range(spec.layers):
            stream, update = self.layer(i, stream, update, bias, wanted if i == spec.layers - 1 else None)
            done()
        _, x = self._norm.of_sum(stream, update, self.weights.final_norm(), "norm", "final")
        self._logits(x, table)

    def bias(self, x: str) -> str:
        """What attention adds to its scores for the tokens of x; empty where it adds nothing."""
        return alibi_bias(self.g, x, self.spec.heads) if self.spec.positions == "alibi" else ""

    def layer(self, i: int, stream: str, update: str, bias: str, wanted: str | None) -> tuple[str, str]:
        """Takes the residual stream and the update that is still to be added to it; returns the same of the next layer.

        The last layer keeps only the ``wanted`` rows once attention has seen all of them.
        """
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
        """(residual stream, an update that is still to be added to it or empty, what a tied head shares)."""
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
            tables=self._tables(),
            bias=bias,
            scale=self.spec.attention_scales[i],
        )

    def _tables(self) -> tuple[str, str] | None:
        """Cosines and sines for the whole context."""
        rope = self.spec.rope
        if rope is not None and not self.g.has(_TABLES[0]):
            tables = rope.tables(self.spec.context_length, width=self.weights.layout.padded_pairs)
            for name, table in zip(_TABLES, tables, strict=True):
                self.g.constant(name, table, np.float32)
        return _TABLES if rope is not None else None

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

    @property
    def _norm(self) -> Norm:
        """Of a stream without a mean, LayerNorm is an RMS norm."""
        return Norm(self.g, "rms" if self.weights.rotated else "layer", self.spec.norm_epsilon)
