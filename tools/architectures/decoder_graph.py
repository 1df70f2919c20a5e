"""The graph of a decoder-only model: one step, from token ids and a KV cache to logits.

Contract (inputs → outputs), with B rows, S new tokens, T slots of cache, R wanted logits:
    input_ids int64 (B, S) or inputs_embeds float32 (B, S, embedding size),
    position_ids int64 (B, S) where positions are looked up,
    seqlens_k int32 (B) = valid tokens − 1, total_sequence_length int32 (),
    logit_index int64 (R) into the B·S new tokens, past_key_values.{i}.key|value float32 (B, kv_heads, T, head_size)
    → logits float32 (R, vocab), present.{i}.key|value, to be bound to the same buffers as the past.

Attention is ONNX Runtime's GroupQueryAttention, which applies rotary embeddings and writes keys and values in place.
The residual stream is the sum of two values, ``stream`` and ``update``: what a sublayer adds is kept apart until the
next norm, which adds it in the same operator.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np

from edgelm_tools.architectures.base import Done
from edgelm_tools.architectures.decoder_layers import Norm, declare_lengths
from edgelm_tools.architectures.decoder_spec import DecoderSpec
from edgelm_tools.architectures.decoder_weights import DecoderWeights
from edgelm_tools.architectures.rope import Rope
from edgelm_tools.graph import GraphBuilder
from edgelm_tools.quantize.scheme import Scheme


@dataclass(frozen=True, slots=True)
class DecoderGraph(ABC):
    """Adds a decoder, or one layer of it, to a graph; a family says what its parts are."""

    g: GraphBuilder
    spec: DecoderSpec
    weights: DecoderWeights
    scheme: Scheme

    def build(self, done: Done) -> None:
        """Adds the whole step; weights are read and written layer by layer, and ``done`` told of each."""
        g, spec = self.g, self.spec
        declare_lengths(g)
        wanted = g.input("logit_index", np.int64, ("rows",))
        stream, update, table = self._embedded()
        bias = self._bias(stream)
        for i in range(spec.layers):
            stream, update = self._layer(i, stream, update, bias, wanted if i == spec.layers - 1 else None)
            done()
        _, x = self._norm.of_sum(stream, update, self.weights.final_norm(), "norm", "final")
        self._logits(x, table)

    def build_layer(self, i: int) -> None:
        """Adds one layer alone: stream, update (batch, sequence, hidden) → next_stream, next_update."""
        g, shape = self.g, ("batch", "sequence", self.spec.hidden_size)
        stream, update = g.input("stream", np.float32, shape), g.input("update", np.float32, shape)
        declare_lengths(g)
        results = self._layer(i, stream, update, self._bias(stream), None)
        for name, result in zip(("next_stream", "next_update"), results, strict=True):
            g.node("Identity", [result], name=name, outputs=[g.output(name, np.float32, shape)])

    def build_entry(self) -> None:
        """Adds what stands before the first layer: tokens → stream, and update where there is one yet."""
        g, shape = self.g, ("batch", "sequence", self.spec.hidden_size)
        stream, update, _ = self._embedded()
        for name, result in (("stream", stream), ("update", update)):
            if result:
                g.node("Identity", [result], name=name, outputs=[g.output(name, np.float32, shape)])

    def build_exit(self) -> None:
        """Adds what stands behind the last layer: stream, update (1, sequence, hidden) → logits of all tokens."""
        g, shape = self.g, (1, "sequence", self.spec.hidden_size)
        stream, update = g.input("stream", np.float32, shape), g.input("update", np.float32, shape)
        _, x = self._norm.of_sum(stream, update, self.weights.final_norm(), "norm", "final")
        self._logits(x, "")

    @property
    @abstractmethod
    def _norm(self) -> Norm:
        """The norm of the residual stream."""

    @abstractmethod
    def _embedded(self) -> tuple[str, str, str]:
        """(residual stream, an update that is still to be added to it or empty, what a tied head shares)."""

    @abstractmethod
    def _layer(self, i: int, stream: str, update: str, bias: str, wanted: str | None) -> tuple[str, str]:
        """Takes the residual stream and the update that is still to be added to it; returns the same of the next layer.

        The last layer keeps only the ``wanted`` rows once attention has seen all of them.
        """

    @abstractmethod
    def _logits(self, x: str, table: str) -> None:
        """Adds the output head, which reads the normed stream; ``table``: as ``_embedded`` gives it."""

    def _bias(self, x: str) -> str:
        """What attention adds to its scores for the tokens of x; empty where it adds nothing."""
        return ""

    def _tables(self, rope: Rope, name: str) -> tuple[str, str]:
        """Cosines and sines for the whole context; layers with the same rotary embedding share them."""
        names = f"{name}.cos", f"{name}.sin"
        if not self.g.has(names[0]):
            tables = rope.tables(self.spec.context_length, width=self.weights.layout.padded_pairs)
            for key, table in zip(names, tables, strict=True):
                self.g.constant(key, table, np.float32)
        return names
