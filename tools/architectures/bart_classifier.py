"""BART with a classifier behind its decoder, as bart-large-mnli is: what a text, or a pair of texts, says.

Graph (inputs → output), with B rows padded on the right to S tokens:
    input_ids, attention_mask int64 (B, S) → logits float32 (B, labels).
The decoder reads the text that the encoder has read, one place further right behind its start token, and the classifier
what has become of the text's last ``</s>`` (Lewis et al. 2019, arXiv 1910.13461, section 3.1).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from onnx import TensorProto

from edgelm_tools.architectures.decoder_layers import activated, linear
from edgelm_tools.architectures.seq2seq_graph import EMBEDDING, Encoder, given_mask
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
) -> None:
    """Adds the whole graph; weights are read and written layer by layer, and ``done`` told of each.

    ``end``: id of ``</s>``.
    """
    _Classifier(g, spec, weights, scheme, end).classify(done)


@dataclass(frozen=True)
class _Classifier(Encoder):
    end: int

    def classify(self, done: Callable[[], None]) -> None:
        """Adds the whole graph."""
        ids, given = token_ids(self.g), given_mask(self.g)
        mask = self.mask(given)
        sources, targets = self._both_embedded(ids)
        encoded = self.encoded(ids, self.entering("encoder", sources, self.first_positions("encoder", ids)), mask, done)
        places = self.first_positions("decoder", ids, "decoder.positions")
        x = self.entering("decoder", targets, places, "decoder.embed")
        last = self._last_end(ids, given)
        for i in range(self.spec.decoder.layers):
            x = self._decoder_layer(i, x, encoded, mask, last if i == self.spec.decoder.layers - 1 else "")
            done()
        self._labels(x)

    def _both_embedded(self, ids: str) -> tuple[str, str]:
        """(Rows of the table of tokens for the encoder, those for the decoder), (B, S, hidden) each."""
        g = self.g
        first = self._slice(ids, 0, 1, "ids.first")
        none = g.node("Mul", [first, g.constant("number_0", 0, np.int64)], name="start.none")
        token = g.constant("start.token", self.spec.decoder_start_token_id, np.int64)
        start = g.node("Add", [none, token], name="start")
        started = g.node("Concat", [start, ids], name="ids.started", axis=1)
        vectors, _ = self.scheme.lookup(g, EMBEDDING, self.weights.embedding(), started)
        return self._slice(vectors, 1, _ALL, "sources"), self._slice(vectors, 0, -1, "targets")

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

    def _decoder_layer(self, i: int, x: str, encoded: str, mask: str, last: str) -> str:
        """x (B, S, hidden) → the same; with ``last``, only that token goes on behind self-attention: (B, 1, …)."""
        blocks, weights, stack, name = self.blocks, self.weights, self.spec.decoder, f"decoder.layer{i}"
        own, cross = stack.layer(i).self_attention, stack.layer(i).cross
        qkv = weights.stacked([own.query, own.key, own.value])
        packed = blocks.linear(x, f"{name}.attention.qkv", qkv)
        heads = blocks.causal_attention(packed, stack, f"{name}.attention")
        if last:
            x = self.g.node("MatMul", [last, x], name=f"{name}.stream")
            heads = self.g.node("MatMul", [last, heads], name=f"{name}.heads")
        update = blocks.linear(heads, f"{name}.attention.o", weights.linear(own.output), rows="uneven")
        _, x = blocks.join(x, update, weights.norm(own.norm), f"{name}.attention.norm")

        def look(x: str) -> str:
            query = blocks.linear(x, f"{name}.cross.query", weights.linear(cross.query))
            source = blocks.linear(encoded, f"{name}.cross.kv", weights.stacked([cross.key, cross.value]))
            heads = blocks.whole_cross_attention(query, source, mask, stack, f"{name}.cross")
            return blocks.linear(heads, f"{name}.cross.o", weights.linear(cross.output), rows="uneven")

        state = self.sublayer((x, ""), f"{name}.cross", weights.norm(cross.norm), look)
        return self.feed_forward(state, f"{name}.mlp", stack.layer(i).feed_forward)[0]

    def _labels(self, x: str) -> None:
        """The output; heads are small and stay in fp32."""
        g, (count, _) = self.g, self.spec.others[f"{LABELS}.weight"]
        dense = linear(g, Float32(), x, "head.dense", *self.weights.linear(DENSE))
        logits = linear(g, Float32(), activated(g, dense, "tanh", "head.tanh"), "head", *self.weights.linear(LABELS))
        output = g.output("logits", np.float32, ("batch", count))
        g.node("Reshape", [logits, g.constant("labels", [-1, count], np.int64)], name="logits", outputs=[output])
