"""What places add to the scores of an encoder's attention: nothing, one bias for all layers, or terms of each layer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from edgelm_tools.architectures.disentangled import Disentangled
from edgelm_tools.architectures.encoder_spec import EncoderSpec
from edgelm_tools.architectures.encoder_weights import EncoderWeights
from edgelm_tools.graph import MICROSOFT, GraphBuilder
from edgelm_tools.quantize.schemes import Scheme

ScoreBias = Callable[[int, str, str], str]
"""(Layer, its queries, its keys; (B, S, hidden) each) → what is added to its scores, "" if nothing is."""


def score_bias(g: GraphBuilder, spec: EncoderSpec, weights: EncoderWeights, scheme: Scheme, length: str) -> ScoreBias:
    """Adds what all layers share; ``length``: the value (1,) that says how many tokens a row has."""
    if spec.disentangled:
        return _Distances.of(g, spec, spec.disentangled, weights, scheme, length).bias
    shared = _shared_bias(g, spec, weights, length) if spec.relative_buckets else ""
    return lambda layer, queries, keys: shared


def _shared_bias(g: GraphBuilder, spec: EncoderSpec, weights: EncoderWeights, length: str) -> str:
    """(1, heads, S, S), by the distance of a key from its query."""
    scalar = g.node("Squeeze", [length], name="length.scalar")
    zero, one = (g.constant(f"int64_{value}", value, np.int64) for value in (0, 1))
    places = g.node("Range", [zero, scalar, one], name="places")
    keys = g.node("Add", [places, g.constant("middle", spec.context_length - 1, np.int64)], name="places.keys")
    queries = g.node("Unsqueeze", [places, g.constant("last_axis", [-1], np.int64)], name="places.queries")
    distances = g.node("Sub", [keys, queries], name="distances")
    table = g.constant("relative_bias", weights.relative_bias(), np.float32)
    return g.node("Gather", [table, distances], name="attention_bias", axis=2)


@dataclass(frozen=True, slots=True)
class _Distances:
    """Disentangled attention's terms.

    Token i is multiplied with the vectors of 2 · S distances in a row; its product for token j is at S − 1 + j − i. In
    one line, rows of 2 · S behind each other, that is at i · (2 · S − 1) + j behind the first S − 1 values. So the line
    without those, cut into rows of 2 · S − 1, has the product for token j at place j of each row: copies of whole rows
    take the place of S² lookups.

    ``rows``: term → rows of the table of distances, (2 · S); ``skipped``: S − 1; ``shorter``: the shape of those rows.
    """

    g: GraphBuilder
    spec: EncoderSpec
    weights: EncoderWeights
    scheme: Scheme
    length: str
    rows: dict[str, str]
    skipped: str
    shorter: str

    @classmethod
    def of(
        cls,
        g: GraphBuilder,
        spec: EncoderSpec,
        settings: Disentangled,
        weights: EncoderWeights,
        scheme: Scheme,
        length: str,
    ) -> _Distances:
        """Adds what all layers share."""
        context = spec.context_length
        middle = g.constant("distances.middle", [context + 1], np.int64)
        bounds = [g.node(op, [middle, length], name=f"distances.{op.lower()}") for op in ("Sub", "Add")]
        # Places of a query minus its key's rise with queries, and fall with keys.
        rising = settings.rows(context)
        rows = {}
        for term in settings.terms:
            order = g.constant(f"distances.{term}", rising[::-1] if term == "c2p" else rising, np.int64)
            rows[term] = g.node("Slice", [order, *bounds], name=f"distances.{term}.rows")
        skipped = g.node("Sub", [length, g.constant("distances.one", [1], np.int64)], name="distances.skipped")
        width = g.node("Add", [length, skipped], name="distances.width")
        same = g.constant("distances.same", [0, 0], np.int64)
        shorter = g.node("Concat", [same, length, width], name="distances.shape", axis=0)
        return cls(g, spec, weights, scheme, length, rows, skipped, shorter)

    def bias(self, layer: int, queries: str, keys: str) -> str:
        """(B, heads, S, S), scaled as the scores are."""
        name = f"layer{layer}"
        terms = [self._term(layer, term, queries if term == "c2p" else keys) for term in self.rows]
        return self.g.node("Add", terms, name=f"{name}.distances") if len(terms) == 2 else terms[0]

    def _term(self, layer: int, term: str, tokens: str) -> str:
        g, name, table = self.g, f"layer{layer}.{term}", self.weights.distances(self.spec.layer_paths[layer], term)
        vectors, _ = self.scheme.lookup(g, f"{name}.table", table, self.rows[term])
        far = self._heads(vectors, f"{name}.far", (0,), (1, 0, 2))
        near = self._heads(tokens, f"{name}.near", (0, 0), (0, 2, 1, 3))
        products = g.node("FusedMatMul", [near, far], name=f"{name}.products", domain=MICROSOFT, transB=1)
        axes = [g.constant(f"distances.{key}", [value], np.int64) for key, value in (("end", -1), ("flat_axis", 2))]
        flat = g.node("Reshape", [products, g.constant("distances.flat", [0, 0, -1], np.int64)], name=f"{name}.flat")
        flat = g.node("Slice", [flat, self.skipped, *axes], name=f"{name}.line")
        aligned = g.node("Reshape", [flat, self.shorter], name=f"{name}.aligned")
        bounds = [g.constant("first", [0], np.int64), self.length, g.constant("distances.key_axis", [3], np.int64)]
        scores = g.node("Slice", [aligned, *bounds], name=f"{name}.scores")
        return scores if term == "c2p" else g.node("Transpose", [scores], name=f"{name}.turned", perm=[0, 1, 3, 2])

    def _heads(self, x: str, name: str, kept: tuple[int, ...], order: tuple[int, ...]) -> str:
        """x (…, hidden), its axes ``kept`` and one for heads before their values, in another ``order``."""
        heads = self.spec.heads
        shape = [*kept, heads, self.spec.hidden_size // heads]
        split = self.g.constant(f"heads_of_{len(shape)}", shape, np.int64)
        return self.g.node(
            "Transpose", [self.g.node("Reshape", [x, split], name=f"{name}.split")], name=name, perm=list(order)
        )
