"""The graphs of encoder-decoders: what a source says, once, and then one decoder step after the other.

Encoder (inputs → outputs), with B rows padded on the right to L tokens:
    input_ids, attention_mask int64 (B, L) → cross_key_values.{i}.key|value float32 (B, heads, L, head size)
    for every layer i of the decoder.
Decoder, with S new tokens in a row, T slots of cache, R wanted logits:
    input_ids int64 (B, S), position_ids int64 (B, S) where the model has positions, seqlens_k int32 (B) = valid
    tokens − 1, total_sequence_length int32 (), logit_index int64 (R) into the B·S new tokens,
    encoder_attention_mask int32 (B, L), cross_key_values.{i}.key|value, and
    past_key_values.{i}.key|value float32 (B, heads, T, padded head size)
    → logits float32 (R, vocab), present.{i}.key|value, to be bound to the same buffers as the past.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from edgelm_tools.architectures.decoder_layers import NormWeights, declare_lengths, take_rows
from edgelm_tools.architectures.seq2seq_blocks import Blocks
from edgelm_tools.architectures.seq2seq_spec import FeedForwardNames, Role, Seq2SeqSpec
from edgelm_tools.architectures.seq2seq_weights import Seq2SeqWeights
from edgelm_tools.graph import GraphBuilder
from edgelm_tools.quantize.scheme import Rows, Scheme, token_ids

# Weights of this name are written once, by the encoder, and read by both graphs.
EMBEDDING = "shared.embed"
State = tuple[str, str]
"""The residual stream, and what is still to be added to it ("": nothing)."""


def build_encoder(
    g: GraphBuilder, spec: Seq2SeqSpec, weights: Seq2SeqWeights, scheme: Scheme, done: Callable[[], None]
) -> None:
    """Adds the whole encoder; weights are read and written layer by layer, and ``done`` told of each."""
    Encoder(g, spec, weights, scheme).build(done)


def build_decoder(
    g: GraphBuilder, spec: Seq2SeqSpec, weights: Seq2SeqWeights, scheme: Scheme, done: Callable[[], None]
) -> None:
    """Adds the whole decoder step; weights are read and written layer by layer, and ``done`` told of each."""
    _Decoder(g, spec, weights, scheme).build(done)


def given_mask(g: GraphBuilder) -> str:
    """Declares an encoder's input of tokens and padding, int64 (B, L)."""
    return g.input("attention_mask", np.int64, ("batch", "sequence"))


@dataclass(frozen=True)
class Half:
    """What encoder and decoder have in common."""

    g: GraphBuilder
    spec: Seq2SeqSpec
    weights: Seq2SeqWeights
    scheme: Scheme

    @property
    def blocks(self) -> Blocks:
        """What the graph is made of."""
        return Blocks(self.g, self.scheme, self.spec.norm, self.spec.norm_epsilon)

    def embedded(self, role: Role, ids: str, positions: str) -> tuple[str, str]:
        """(Vectors of the tokens as they enter the first layer, name of their table)."""
        vectors, table = self.scheme.lookup(self.g, EMBEDDING, self.weights.embedding(), ids)
        return self.entering(role, vectors, positions), table

    def entering(self, role: Role, vectors: str, positions: str, name: str = "embed") -> str:
        """Rows of the table of tokens as they enter the first layer."""
        blocks, spec = self.blocks, self.spec
        stream = vectors
        if spec.embedding_scale != 1:
            stream = blocks.scaled(stream, spec.embedding_scale, f"{name}.scaled")
        if positions:
            stream = self.g.node("Add", [stream, positions], name=f"{name}.positioned")
        norm = spec.stack(role).names.embedding_norm
        return blocks.norm(stream, self.weights.norm(norm), f"{name}.norm") if norm else stream

    def first_positions(self, role: Role, ids: str, name: str = "positions") -> str:
        """What is added to the embeddings of a whole text; empty where the model has no positions."""
        if self.spec.positions is None:
            return ""
        table = self.g.constant(f"{name}.table", self.weights.positions(role, self.spec.positions), np.float32)
        return self.blocks.first_rows(table, ids, name)

    def sublayer(
        self,
        state: State,
        name: str,
        norm: NormWeights,
        compute: Callable[[str], str],
        keep: Callable[[str], str] = lambda stream: stream,
    ) -> State:
        """The state behind a sublayer, with the norm before it or behind its sum with the stream.

        ``keep``: takes of the stream the tokens that ``compute`` gives something for.
        """
        stream, update = state
        if self.spec.residual == "pre":
            stream, x = self.blocks.join(stream, update, norm, f"{name}.norm")
            return keep(stream), compute(x)
        _, stream = self.blocks.join(keep(stream), compute(stream), norm, f"{name}.norm")
        return stream, ""

    def feed_forward(self, state: State, name: str, names: FeedForwardNames) -> State:
        """The state behind a layer's last sublayer."""
        blocks, weights, spec = self.blocks, self.weights, self.spec

        def compute(x: str) -> str:
            first = [blocks.linear(x, f"{name}.in{n}", weights.linear(inner)) for n, inner in enumerate(names.inner)]
            inner = blocks.activated(first[0], spec.activation, f"{name}.activation")
            if spec.gated:
                inner = self.g.node("Mul", [inner, first[1]], name=f"{name}.gated")
            rows: Rows = "heavy-tailed" if spec.gated else "uneven"
            return blocks.linear(inner, f"{name}.out", weights.linear(names.outer), rows=rows)

        return self.sublayer(state, name, weights.norm(names.norm), compute)

    def final(self, role: Role, state: State, factor: float = 1.0, name: str = "final") -> str:
        """The stream behind the last layer, multiplied by ``factor``."""
        norm = self.spec.stack(role).names.final_norm
        if norm is not None:
            return self.blocks.join(*state, self.weights.norm(norm, factor), f"{name}.norm")[1]
        # Without a final norm, nothing is pending: each sublayer ends with its own.
        return state[0] if factor == 1 else self.blocks.scaled(state[0], factor, f"{name}.scaled")


class Encoder(Half):
    """The encoder, with the keys and values of the source behind it, or without."""

    def build(self, done: Callable[[], None]) -> None:
        """Adds the whole graph."""
        ids, mask = token_ids(self.g), self.mask(given_mask(self.g))
        stream, _ = self.embedded("encoder", ids, self.first_positions("encoder", ids))
        self._cross_key_values(self.encoded(ids, stream, mask, done))

    def mask(self, given: str) -> str:
        """The mask of padding as attention takes it."""
        return self.blocks.cast(given, np.int32, "mask")

    def encoded(self, ids: str, stream: str, mask: str, done: Callable[[], None]) -> str:
        """What all layers and the final norm make of the embeddings: (B, L, hidden)."""
        spec, state, bias = self.spec, (stream, ""), ""
        for i in range(spec.encoder.layers):
            if spec.relative_bias and (i == 0 or spec.relative_bias.every_layer):
                bias = self.blocks.bias_both_ways(ids, self.weights.relative_bias("encoder", i), f"layer{i}.bias")
            state = self._layer(i, state, mask, bias)
            done()
        return self.final("encoder", state)

    def _layer(self, i: int, state: State, mask: str, bias: str) -> State:
        stack, name, weights = self.spec.encoder, f"layer{i}", self.weights
        own, forward = stack.layer(i).self_attention, stack.layer(i).feed_forward

        def attend(x: str) -> str:
            qkv = weights.stacked([own.query, own.key, own.value])
            packed = self.blocks.linear(x, f"{name}.attention.qkv", qkv)
            heads = self.blocks.encoder_attention(packed, mask, bias, stack, f"{name}.attention")
            return self.blocks.linear(heads, f"{name}.attention.o", weights.linear(own.output), rows="uneven")

        state = self.sublayer(state, f"{name}.attention", weights.norm(own.norm), attend)
        return self.feed_forward(state, f"{name}.mlp", forward)

    def _cross_key_values(self, encoded: str) -> None:
        """Keys and values of the source for every layer of the decoder."""
        for i in range(self.spec.decoder.layers):
            names = self.spec.decoder.layer(i).cross
            both = self.blocks.linear(encoded, f"cross{i}.kv", self.weights.stacked([names.key, names.value]))
            self.blocks.cross_outputs(both, i, self.spec.decoder)


class _Decoder(Half):
    def build(self, done: Callable[[], None]) -> None:
        spec, g, stack = self.spec, self.g, self.spec.decoder
        ids = token_ids(g)
        positions = self._positions()
        declare_lengths(g)
        wanted = g.input("logit_index", np.int64, ("rows",))
        g.input("encoder_attention_mask", np.int32, ("batch", "source"))
        stream, table = self.embedded("decoder", ids, positions)
        state: State = (stream, "")
        bias = ""
        for i in range(stack.layers):
            if spec.relative_bias and (i == 0 or spec.relative_bias.every_layer):
                bias = self.blocks.bias_back(ids, self.weights.relative_bias("decoder", i), f"layer{i}.bias")
            state = self._layer(i, state, bias)
            done()
        x = take_rows(g, self.final("decoder", state, spec.head_scale), wanted, spec.hidden_size, "final")
        logits = self.scheme.head(g, x, "head", self.weights.head(), table if spec.tied else None)
        self.blocks.logits(logits, self.weights.logits_bias(), spec.vocab_size)

    def _positions(self) -> str:
        if self.spec.positions is None:
            return ""
        table = self.g.constant("positions.table", self.weights.positions("decoder", self.spec.positions), np.float32)
        places = self.g.input("position_ids", np.int64, ("batch", "sequence"))
        return self.g.node("Gather", [table, places], name="positions", axis=0)

    def _layer(self, i: int, state: State, bias: str) -> State:
        stack, name, weights = self.spec.decoder, f"layer{i}", self.weights
        own, cross, forward = stack.layer(i).self_attention, stack.layer(i).cross, stack.layer(i).feed_forward

        def attend(x: str) -> str:
            packed = self.blocks.linear(x, f"{name}.attention.qkv", weights.padded_qkv(own))
            heads = self.blocks.decoder_attention(packed, bias, i, stack)
            return self.blocks.linear(heads, f"{name}.attention.o", weights.padded_output(own), rows="uneven")

        def look(x: str) -> str:
            query = self.blocks.linear(x, f"{name}.cross.q", weights.linear(cross.query))
            heads = self.blocks.cross_attention(query, i, stack)
            return self.blocks.linear(heads, f"{name}.cross.o", weights.linear(cross.output), rows="uneven")

        state = self.sublayer(state, f"{name}.attention", weights.norm(own.norm), attend)
        state = self.sublayer(state, f"{name}.cross", weights.norm(cross.norm), look)
        return self.feed_forward(state, f"{name}.mlp", forward)
