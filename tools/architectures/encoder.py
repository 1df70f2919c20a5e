"""The graph of an encoder of the BERT family, with the head that stands on it.

Contract (inputs → outputs), with B rows of S tokens, padded on the right:
    input_ids int64 (B, S), attention_mask int64 (B, S): 1 = token,
    and where the model has types token_type_ids int64 (B, S)
    → last_hidden_state float32 (B, S, hidden), or the head's logits: (B, labels) of a text,
    (B, S, labels or vocabulary) of its tokens; or start_logits and end_logits (B, S).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgelm_tools.architectures.base import Done
from edgelm_tools.architectures.decoder_layers import Activation, activated
from edgelm_tools.architectures.encoder_bias import ScoreBias, score_bias
from edgelm_tools.architectures.encoder_spec import Convolution, EncoderSpec
from edgelm_tools.architectures.encoder_weights import (
    CONVOLUTION,
    CONVOLUTION_NORM,
    EMBEDDING_NORM,
    POSITIONS,
    SPANS,
    TOKEN_CLASSIFIER,
    TYPES,
    WORDS,
    EncoderWeights,
)
from edgelm_tools.architectures.neighbours import with_neighbours
from edgelm_tools.graph import MICROSOFT, GraphBuilder
from edgelm_tools.matrix import Matrix
from edgelm_tools.quantize.schemes import Float32, Rows, Scheme
from edgelm_tools.quantize.smoothed import SmoothedRows

# A layer's, as ``layer{i}.KIND``.
LINEAR_LAYERS = ("qkv", "output", "up", "down")
_ROWS = ("batch", "sequence")


def build_encoder(g: GraphBuilder, spec: EncoderSpec, weights: EncoderWeights, scheme: Scheme, done: Done) -> None:
    """Adds the whole graph; weights are read and written layer by layer, and ``done`` told of each layer."""
    _Encoder(g, spec, weights, scheme).build(done)


@dataclass(frozen=True, slots=True)
class _Encoder:
    g: GraphBuilder
    spec: EncoderSpec
    weights: EncoderWeights
    scheme: Scheme

    def build(self, done: Done) -> None:
        g, spec = self.g, self.spec
        ids = g.input("input_ids", np.int64, _ROWS)
        mask = g.node("Cast", [g.input("attention_mask", np.int64, _ROWS)], name="mask", to=6)
        length = g.node("Shape", [ids], name="length", start=1, end=2)
        x, table = self._embeddings(ids, length)
        bias, embedded = score_bias(g, spec, self.weights, self.scheme, length), x
        for i in range(len(spec.layer_paths)):
            x = self._layer(i, x, mask, bias)
            if i == 0 and spec.convolution:
                x = self._convolved(embedded, x, mask, spec.convolution)
            done()
        self._head(x, table)

    def _embeddings(self, ids: str, length: str) -> tuple[str, str]:
        """(normed embeddings (B, S, hidden), what ``Scheme.lookup`` calls the table of words)."""
        g, spec, weights = self.g, self.spec, self.weights
        x, table = self.scheme.lookup(g, "embed", weights.matrix(WORDS), ids)
        if spec.token_types > 1:
            types = g.constant(TYPES, weights.types(), np.float32)
            given = g.input("token_type_ids", np.int64, _ROWS)
            x = g.node("Add", [x, g.node("Gather", [types, given], name="types", axis=0)], name="typed")
        rows = self._same_in_all_texts(length)
        if rows:
            x = g.node("Add", [x, rows], name="embed.norm.sum")
        x = self._norm(x, EMBEDDING_NORM, "embed.norm")
        if spec.projects:
            x = self._biased_linear(x, "embed.projection", spec.projects, rows="normed")
        return x, table

    def _same_in_all_texts(self, length: str) -> str:
        """What the embeddings have beside words and their types: (S, width) or (1, width); "": nothing."""
        g, weights = self.g, self.weights
        only_type = weights.types() if self.spec.token_types == 1 else None
        if not self.spec.position_table:
            return "" if only_type is None else g.constant(TYPES, only_type, np.float32)
        positions = weights.positions() if only_type is None else weights.positions() + only_type
        bounds = [g.constant("first", [0], np.int64), length]
        return g.node("Slice", [g.constant(POSITIONS, positions, np.float32), *bounds], name="positions")

    def _layer(self, i: int, x: str, mask: str, bias: ScoreBias) -> str:
        """x (B, S, hidden) → the same; the last layer below a head over first tokens computes (B, 1, hidden)."""
        name, path, names = f"layer{i}", self.spec.layer_paths[i], self.spec.member.layer
        attended = self._attention(i, x, mask, bias)
        last = i == len(self.spec.layer_paths) - 1
        if last and self.spec.task == "sequence":
            x, attended = self._first(x, f"{name}.first"), self._first(attended, f"{name}.attended")
        update = self._biased_linear(attended, f"{name}.output", f"{path}.{names.output}", rows="uneven")
        x = self._add_and_norm(x, update, f"{path}.{names.attention_norm}", f"{name}.norm1")
        update = self._mlp(i, x)
        bare = last and self.spec.task == "bare"
        if bare:
            self.g.output("last_hidden_state", np.float32, (*_ROWS, self.spec.hidden_size))
        output = "last_hidden_state" if bare else None
        return self._add_and_norm(x, update, f"{path}.{names.norm}", f"{name}.norm2", output=output)

    def _mlp(self, i: int, x: str) -> str:
        """What the layer's MLP adds to its input."""
        g, name, path, names = self.g, f"layer{i}", self.spec.layer_paths[i], self.spec.member.layer
        up, down, weights = f"{path}.{names.up}", f"{path}.{names.down}", self.weights
        spikes = self.scheme.spikes(f"{name}.down") if isinstance(self.scheme, SmoothedRows) else None
        if spikes is None or not len(spikes):
            inner = self._activated(self._linear(x, f"{name}.up", up, rows="normed"), up, f"{name}.activation")
            return self._biased_linear(inner, f"{name}.down", down, rows="heavy-tailed")
        others = np.delete(np.arange(self.spec.intermediate_size), spikes)
        inner = self.scheme.linear(g, x, f"{name}.up", weights.rows(up, others), rows="normed")
        inner = self._activated(inner, up, f"{name}.activation", rows=others)
        main = self._linear_with_bias(inner, f"{name}.down", weights.columns(down, others), down, rows="heavy-tailed")
        apart = Float32().linear(g, x, f"{name}.up_spikes", weights.rows(up, spikes))
        apart = self._activated(apart, up, f"{name}.spikes", rows=spikes)
        apart = Float32().linear(g, apart, f"{name}.down_spikes", weights.columns(down, spikes))
        return g.node("Add", [main, apart], name=f"{name}.mlp")

    def _attention(self, i: int, x: str, mask: str, bias: ScoreBias) -> str:
        g, name, path, names = self.g, f"layer{i}", self.spec.layer_paths[i], self.spec.member.layer
        sources = [f"{path}.{source}" for source in (names.query, names.key, names.value)]
        biases: list[str] = []
        if isinstance(self.scheme, SmoothedRows) or self.spec.disentangled:
            packed = self._biased_linear(x, f"{name}.qkv", *sources, rows="normed")
        else:
            packed = self._linear(x, f"{name}.qkv", *sources, rows="normed")
            biases.append(self._bias(f"{name}.qkv.bias", *sources))
        parts = [f"{name}.{kind}" for kind in ("q", "k", "v")]
        g.node("Split", [packed], name=f"{name}.split", outputs=parts, axis=-1, num_outputs=3)
        added = bias(i, parts[0], parts[1])
        return g.node(
            "MultiHeadAttention",
            [*parts, *(biases or [""]), mask, *([added] if added else [])],
            name=f"{name}.attention",
            domain=MICROSOFT,
            num_heads=self.spec.heads,
            scale=self.spec.score_scale,
        )

    def _convolved(self, embedded: str, x: str, mask: str, convolution: Convolution) -> str:
        """The first layer's output x with what a convolution of the embeddings adds to it."""
        joined = with_neighbours(self.g, embedded, mask, convolution.size)
        update = self.scheme.linear(self.g, joined, "convolution", self.weights.convolution(), rows="normed")
        update = self._activated(update, CONVOLUTION, "convolution.activation", activation=convolution.activation)
        return self._add_and_norm(x, update, CONVOLUTION_NORM, "convolution.norm")

    def _head(self, x: str, table: str) -> None:
        spec = self.spec
        if spec.task == "sequence":
            head, labels = spec.member.sequence, len(spec.head.labels if spec.head else ())
            dense = self._small(x, "head.dense", head.dense)
            dense = self._activated(dense, head.dense, "head.activation", activation=head.activation)
            logits = self._biased(self._small(dense, "head", head.classifier), "head", head.classifier)
            flat = self.g.constant("labels", [-1, labels], np.int64)
            self._output("Reshape", [logits, flat], "logits", ("batch", labels))
        elif spec.task == "token":
            logits = self._small(x, "head", TOKEN_CLASSIFIER)
            width = len(spec.head.labels if spec.head else ())
            self._output("Add", [logits, self._bias("head.bias", TOKEN_CLASSIFIER)], "logits", (*_ROWS, width))
        elif spec.task == "question":
            both = self._biased(self._small(x, "head", SPANS), "head", SPANS)
            for i, name in enumerate(("start_logits", "end_logits")):
                self._output("Gather", [both, self.g.constant(f"int64_{i}", i, np.int64)], name, _ROWS, axis=-1)
        elif spec.task == "masked":
            self._predict_tokens(x, table)

    def _predict_tokens(self, x: str, table: str) -> None:
        spec, names = self.spec, self.spec.member.masked
        x = self._small(x, "head.dense", names.dense)
        x = self._norm(
            self._activated(x, names.dense, "head.activation", activation=names.activation), names.norm, "head.norm"
        )
        matrix = self.weights.matrix(WORDS if spec.tied or names.decoder is None else names.decoder)
        logits = self.scheme.head(self.g, x, "head", matrix, table if spec.tied else None)
        bias_name = self.g.constant("head.bias", self.weights.vocabulary_bias(), np.float32)
        self._output("Add", [logits, bias_name], "logits", (*_ROWS, spec.vocab_size))

    def _linear(self, x: str, name: str, *sources: str, rows: Rows) -> str:
        return self.scheme.linear(self.g, x, name, self.weights.matrix(*sources), rows=rows)

    def _small(self, x: str, name: str, source: str) -> str:
        """A head's layer stays in fp32: heads are small, and the answer is theirs."""
        return Float32().linear(self.g, x, name, self.weights.matrix(source))

    def _bias(self, name: str, *sources: str) -> str:
        return self.g.constant(name, self.weights.bias(*sources), np.float32)

    def _biased(self, x: str, name: str, *sources: str) -> str:
        return self.g.node("Add", [x, self._bias(f"{name}.bias", *sources)], name=f"{name}.biased")

    def _biased_linear(self, x: str, name: str, *sources: str, rows: Rows) -> str:
        return self._linear_with_bias(x, name, self.weights.matrix(*sources), *sources, rows=rows)

    def _linear_with_bias(self, x: str, name: str, matrix: Matrix, *sources: str, rows: Rows) -> str:
        """``matrix`` may be a part of the linear layers ``sources``, whose bias is added."""
        if isinstance(self.scheme, SmoothedRows):
            return self.scheme.linear(self.g, x, name, matrix, rows=rows, bias=self.weights.bias(*sources))
        return self._biased(self.scheme.linear(self.g, x, name, matrix, rows=rows), name, *sources)

    def _activated(
        self,
        x: str,
        source: str,
        name: str,
        *,
        activation: Activation | None = None,
        rows: NDArray[np.int64] | None = None,
    ) -> str:
        """activation(x + bias of the linear layer ``source``, or of those of its ``rows``)."""
        values, activation = self.weights.bias(source), activation or self.spec.activation
        bias = self.g.constant(f"{name}.bias", values if rows is None else values[rows], np.float32)
        if activation in ("gelu", "gelu_tanh"):
            op = "BiasGelu" if activation == "gelu" else "FastGelu"
            return self.g.node(op, [x, bias], name=name, domain=MICROSOFT)
        x = self.g.node("Add", [x, bias], name=f"{name}.biased")
        return activated(self.g, x, activation, name)

    def _add_and_norm(self, x: str, update: str, norm: str, name: str, *, output: str | None = None) -> str:
        """The norm of x + update, in two operators: the one that does both takes twice their time on a CPU."""
        total = self.g.node("Add", [x, update], name=f"{name}.sum")
        return self._norm(total, norm, name, output=output)

    def _norm(self, x: str, norm: str, name: str, *, output: str | None = None) -> str:
        weight, bias = self.weights.norm(norm)
        inputs = [x]
        for kind, values in (("weight", weight), ("bias", bias)):
            inputs.append(self.g.constant(f"{name}.{kind}", values, np.float32))
        return self.g.node(
            "LayerNormalization",
            inputs,
            name=name,
            outputs=[output or f"{name}.out"],
            epsilon=self.spec.norm_epsilon,
        )

    def _first(self, x: str, name: str) -> str:
        """The first token of each row: (B, 1, width)."""
        return self.g.node("Gather", [x, self.g.constant("first", [0], np.int64)], name=name, axis=1)

    def _output(
        self, op: str, inputs: list[str], name: str, shape: tuple[str | int, ...], axis: int | None = None
    ) -> None:
        self.g.output(name, np.float32, shape)
        self.g.node(op, inputs, name=f"{name}.node", outputs=[name], axis=axis)
