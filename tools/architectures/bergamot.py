"""The graphs of Bergamot (Firefox Translations) models: a transformer encoder and a recurrent decoder.

Encoder (inputs → outputs), with B rows padded on the right to L tokens:
    input_ids, attention_mask int64 (B, L) → cross_key_values.{i}.key|value float32 (B, heads, L, head size)
    for every layer i of the decoder.
Decoder, one new token in a row:
    input_ids, position_ids int64 (B, 1), encoder_attention_mask int32 (B, L), cross_key_values.{i}.key|value,
    state.{i} float32 (B, width) → logits float32 (B, vocab), next_state.{i}.
The token at position 0 stands for none: its embedding is zero, whatever it is, and so is the state before it.

In place of self-attention the decoder has SSRU cells (simpler simple recurrent units, arXiv 1910.10855): its state is
one vector a layer, however long the answer.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from onnx import TensorProto

from edgelm_tools.architectures.base import Done
from edgelm_tools.architectures.bergamot_spec import BergamotSpec
from edgelm_tools.architectures.bergamot_weights import BergamotWeights
from edgelm_tools.architectures.positions import tensor2tensor_sinusoids
from edgelm_tools.architectures.seq2seq_blocks import Blocks
from edgelm_tools.graph import GraphBuilder
from edgelm_tools.quantize.scheme import Scheme, token_ids

# Written once, by the encoder, and read by both graphs.
EMBEDDING = "shared.embed"
NORM_EPSILON = 1e-9


@dataclass(frozen=True, slots=True)
class BergamotGraph:
    """Adds the parts of one graph."""

    g: GraphBuilder
    spec: BergamotSpec
    weights: BergamotWeights
    scheme: Scheme

    def build_encoder(self, done: Done) -> None:
        """Adds the whole encoder; ``done`` is told of each layer."""
        g, spec = self.g, self.spec
        ids = token_ids(g)
        given = g.input("attention_mask", np.int64, ("batch", "sequence"))
        mask = self._blocks.cast(given, np.int32, "mask")
        table = g.constant("positions", tensor2tensor_sinusoids(spec.source_length, spec.width), np.float32)
        stream, _ = self._embedded(ids)
        stream = g.node("Add", [stream, self._blocks.first_rows(table, ids, "places")], name="embed.positioned")
        for i in range(spec.encoder_layers):
            packed = self._blocks.linear(stream, f"layer{i}.qkv", self.weights.packed(f"encoder_l{i + 1}_self", "qkv"))
            attended = self._blocks.encoder_attention(packed, mask, "", self.spec, f"layer{i}.attention")
            stream = self._output(stream, attended, f"encoder_l{i + 1}_self", f"layer{i}.attention")
            stream = self._feed_forward(stream, f"encoder_l{i + 1}", f"layer{i}.mlp")
            done()
        for i in range(spec.decoder_layers):
            both = self._blocks.linear(stream, f"cross{i}.kv", self.weights.packed(f"decoder_l{i + 1}_context", "kv"))
            self._blocks.cross_outputs(both, i, self.spec)

    def build_decoder(self, done: Done) -> None:
        """Adds the whole decoder step; ``done`` is told of each layer."""
        g, spec = self.g, self.spec
        ids = g.input("input_ids", np.int64, ("batch", 1))
        positions = g.input("position_ids", np.int64, ("batch", 1))
        g.input("encoder_attention_mask", np.int32, ("batch", "source"))
        embedded, tied_to = self._embedded(ids)
        stream = g.node("Add", [self._nothing_at_first(embedded, positions), self._place(positions)], name="stream")
        for i in range(spec.decoder_layers):
            stream = self._recurrent(stream, i)
            query = self._blocks.linear(
                stream, f"layer{i}.query", self.weights.packed(f"decoder_l{i + 1}_context", "q")
            )
            attended = self._blocks.cross_attention(query, i, self.spec)
            stream = self._output(stream, attended, f"decoder_l{i + 1}_context", f"layer{i}.cross")
            stream = self._feed_forward(stream, f"decoder_l{i + 1}", f"layer{i}.mlp")
            done()
        row = g.node("Squeeze", [stream, g.constant("token_axis", [1], np.int64)], name="final")
        logits = self.scheme.head(g, row, "head", self.weights.embedding(), tied_to)
        bias = g.constant("head.bias", self.weights.vector("decoder_ff_logit_out_b"), np.float32)
        output = g.output("logits", np.float32, ("batch", spec.vocab_size))
        g.node("Add", [logits, bias], name="logits", outputs=[output])

    @property
    def _blocks(self) -> Blocks:
        return Blocks(self.g, self.scheme, "layer", NORM_EPSILON)

    def _embedded(self, ids: str) -> tuple[str, str]:
        vectors, table = self.scheme.lookup(self.g, EMBEDDING, self.weights.embedding(), ids)
        return self._blocks.scaled(vectors, math.sqrt(self.spec.width), "embed.scaled"), table

    def _nothing_at_first(self, embedded: str, positions: str) -> str:
        g = self.g
        later = g.node("Greater", [positions, g.constant("first_place", 0, np.int64)], name="later")
        factor = g.node("Cast", [later], name="later.factor", to=TensorProto.FLOAT)
        column = g.node("Unsqueeze", [factor, g.constant("last_axis", [-1], np.int64)], name="later.column")
        return g.node("Mul", [embedded, column], name="embed.later")

    def _place(self, positions: str) -> str:
        table = tensor2tensor_sinusoids(self.spec.target_length, self.spec.width)
        return self.g.node("Gather", [self.g.constant("positions", table, np.float32), positions], name="place", axis=0)

    def _recurrent(self, stream: str, i: int) -> str:
        """c ← f · c + (1 − f) · z with a gate f and values z of the stream; its positive part goes on."""
        g, name, width, prefix = self.g, f"layer{i}.cell", self.spec.width, f"decoder_l{i + 1}_rnn"
        state = g.input(f"state.{i}", np.float32, ("batch", width))
        row = g.constant("token_axis", [1], np.int64)
        both = self._blocks.linear(stream, f"{name}.gate_and_value", self.weights.cell(prefix))
        parts = [f"{name}.gate_in", f"{name}.value"]
        g.node("Split", [both, g.constant("cell.halves", [width] * 2, np.int64)], name=name, outputs=parts, axis=-1)
        gate = g.node("Sigmoid", [parts[0]], name=f"{name}.gate")
        before = g.node("Unsqueeze", [state, row], name=f"{name}.before")
        change = g.node("Sub", [before, parts[1]], name=f"{name}.change")
        kept = g.node("Mul", [gate, change], name=f"{name}.kept")
        after = g.node("Add", [parts[1], kept], name=f"{name}.after")
        output = g.output(f"next_state.{i}", np.float32, ("batch", width))
        g.node("Squeeze", [after, row], name=f"{name}.next", outputs=[output])
        positive = g.node("Relu", [after], name=f"{name}.positive")
        return self._blocks.join(stream, positive, self.weights.norm(f"{prefix}_ffn"), f"{name}.norm")[1]

    def _output(self, stream: str, attended: str, prefix: str, name: str) -> str:
        update = self._blocks.linear(attended, f"{name}.output", self.weights.packed(prefix, "o"))
        return self._blocks.join(stream, update, self.weights.norm(f"{prefix}_Wo"), f"{name}.norm")[1]

    def _feed_forward(self, stream: str, prefix: str, name: str) -> str:
        inner = self._blocks.linear(stream, f"{name}.in", self.weights.linear(f"{prefix}_ffn_W1", f"{prefix}_ffn_b1"))
        active = self._blocks.activated(inner, "relu", f"{name}.activation")
        outer = self.weights.linear(f"{prefix}_ffn_W2", f"{prefix}_ffn_b2")
        update = self._blocks.linear(active, f"{name}.out", outer, rows="uneven")
        return self._blocks.join(stream, update, self.weights.norm(f"{prefix}_ffn_ffn"), f"{name}.norm")[1]
