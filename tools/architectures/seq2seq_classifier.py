"""Encoder-decoders with a classifier behind the decoder, as bart-large-mnli: what a text, or a pair of texts, says.

Graph (inputs → output), with B rows padded on the right to S tokens:
    input_ids, attention_mask int64 (B, S) → logits float32 (B, labels).
The decoder reads the text that the encoder has read, one place further right behind a start token, and the classifier
what has become of the text's last ``</s>`` (Lewis et al. 2019, arXiv 1910.13461, section 3.1). mBART's start token is
the last of the text, which names its language.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from onnx import TensorProto

from edgelm_tools.architectures.decoder_layers import activated, linear
from edgelm_tools.architectures.seq2seq_graph import EMBEDDING, Encoder, State, given_mask
from edgelm_tools.architectures.seq2seq_spec import Seq2SeqSpec
from edgelm_tools.architectures.seq2seq_weights import Seq2SeqWeights
from edgelm_tools.graph import GraphBuilder
from edgelm_tools.quantize.scheme import Scheme, token_ids
from edgelm_tools.quantize.schemes import Float32

DENSE, LABELS = "classification_head.dense", "classification_head.out_proj"
_ALL = int(np.iinfo(np.int64).max)


def build_classifier(
    g: GraphBuilder,
    spec: Seq2SeqSpec,
    weights: Seq2SeqWeights,
    scheme: Scheme,
    done: Callable[[], None],
    *,
    end: int,
    start: int | None,
) -> None:
    """Adds the whole graph; weights are read and written layer by layer, and ``done`` told of each.

    ``end``: id of ``</s>``; ``start``: that of the decoder's first token, None for the text's last one.
    """
    _Classifier(g, spec, weights, scheme, end, start).classify(done)


@dataclass(frozen=True)
class _Classifier(Encoder):
    end: int
    start: int | None

    def classify(self, done: Callable[[], None]) -> None:
        """Adds the whole graph."""
        ids, given = token_ids(self.g), given_mask(self.g)
        mask, layers = self.mask(given), self.spec.decoder.layers
        sources, targets = self._both_embedded(ids, given)
        encoded = self.encoded(ids, self.entering("encoder", sources, self.first_positions("encoder", ids)), mask, done)
        places = self.first_positions("decoder", ids, "decoder.positions")
        state: State = self.entering("decoder", targets, places, "decoder.embed"), ""
        last, bias, relative = self._last_end(ids, given), "", self.spec.relative_bias
        for i in range(layers):
            if relative and (i == 0 or relative.every_layer):
                table = self.weights.causal_relative_bias(i)
                bias = self.blocks.bias_both_ways(ids, table, f"decoder.layer{i}.bias")
            state = self._decoder_layer(i, state, encoded, mask, bias, last if i == layers - 1 else "")
            done()
        self._labels(self.final("decoder", state, name="decoder.final"))

    def _both_embedded(self, ids: str, given: str) -> tuple[str, str]:
        """(Rows of the table of tokens for the encoder, those for the decoder), (B, S, hidden) each."""
        g = self.g
        started = g.node("Concat", [self._start(ids, given), ids], name="ids.started", axis=1)
        vectors, _ = self.scheme.lookup(g, EMBEDDING, self.weights.embedding(), started)
        return self._slice(vectors, 1, _ALL, "sources"), self._slice(vectors, 0, -1, "targets")

    def _start(self, ids: str, given: str) -> str:
        """The decoder's first token of each row: (B, 1) int64."""
        g = self.g
        columns = g.constant("column_axis", [1], np.int64)
        if self.start is None:
            count = g.node("ReduceSum", [given, columns], name="start.count")
            place = g.node("Sub", [count, g.constant("number_1", 1, np.int64)], name="start.place")
            return g.node("GatherElements", [ids, place], name="start", axis=1)
        none = g.node("Mul", [self._slice(ids, 0, 1, "ids.first"), g.constant("number_0", 0, np.int64)], name="none")
        return g.node("Add", [none, g.constant("start.token", self.start, np.int64)], name="start")

    def _slice(self, x: str, start: int, stop: int, name: str) -> str:
        """Columns of x (B, S, …)."""
        bounds = [self.g.constant(f"column_{n}", [n], np.int64) for n in (start, stop)]
        return self.g.node("Slice", [x, *bounds, self.g.constant("column_axis", [1], np.int64)], name=name)

    def _last_end(self, ids: str, given: str) -> str:
        """One at the last end token of each row, zero elsewhere: (B, 1, S) float32.

        In a row without one, the last token is taken for it.
        """
        g, columns = self.g, self.g.constant("column_axis", [1], np.int64)
        equal = g.node("Equal", [ids, g.constant("end.token", self.end, np.int64)], name="end.equal")
        is_end = g.node("Cast", [equal], name="end.tokens", to=TensorProto.INT64)
        length = self.blocks.length(ids)
        # Ends rank above all other tokens, later ones above earlier ones, and padding below all.
        raised = g.node("Mul", [is_end, length], name="end.raised")
        places = self.blocks.count_up(g.node("Squeeze", [length], name="end.count"), "end.places")
        numbers = g.node("Add", [places, g.constant("number_1", 1, np.int64)], name="end.numbers")
        ranks = g.node("Mul", [g.node("Add", [numbers, raised], name="end.sums"), given], name="end.ranks")
        best = g.node("ReduceMax", [ranks, columns], name="end.best")
        last = g.node("Equal", [ranks, best], name="end.last")
        return g.node(
            "Unsqueeze", [g.node("Cast", [last], name="end.one", to=TensorProto.FLOAT), columns], name="end.row"
        )

    def _decoder_layer(self, i: int, state: State, encoded: str, mask: str, bias: str, last: str) -> State:
        """The state (B, S, hidden) behind a layer; with ``last``, only that token goes on behind self-attention."""
        blocks, weights, stack, name = self.blocks, self.weights, self.spec.decoder, f"decoder.layer{i}"
        own, cross = stack.layer(i).self_attention, stack.layer(i).cross

        def kept(x: str, what: str = "stream") -> str:
            return self.g.node("MatMul", [last, x], name=f"{name}.{what}") if last else x

        def attend(x: str) -> str:
            packed = blocks.linear(x, f"{name}.attention.qkv", weights.stacked([own.query, own.key, own.value]))
            heads = kept(blocks.causal_attention(packed, bias, stack, f"{name}.attention"), "heads")
            return blocks.linear(heads, f"{name}.attention.o", weights.linear(own.output), rows="uneven")

        def look(x: str) -> str:
            query = blocks.linear(x, f"{name}.cross.query", weights.linear(cross.query))
            source = blocks.linear(encoded, f"{name}.cross.kv", weights.stacked([cross.key, cross.value]))
            heads = blocks.whole_cross_attention(query, source, mask, stack, f"{name}.cross")
            return blocks.linear(heads, f"{name}.cross.o", weights.linear(cross.output), rows="uneven")

        state = self.sublayer(state, f"{name}.attention", weights.norm(own.norm), attend, kept)
        state = self.sublayer(state, f"{name}.cross", weights.norm(cross.norm), look)
        return self.feed_forward(state, f"{name}.mlp", stack.layer(i).feed_forward)

    def _labels(self, x: str) -> None:
        """The output; heads are small and stay in fp32."""
        g, (count, _) = self.g, self.spec.others[f"{LABELS}.weight"]
        dense = linear(g, Float32(), x, "head.dense", *self.weights.biased(DENSE))
        logits = linear(g, Float32(), activated(g, dense, "tanh", "head.tanh"), "head", *self.weights.biased(LABELS))
        output = g.output("logits", np.float32, ("batch", count))
        g.node("Reshape", [logits, g.constant("labels", [-1, count], np.int64)], name="logits", outputs=[output])
