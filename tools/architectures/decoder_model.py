"""A decoder-only checkpoint as the exporter sees it, whatever its family."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from edgelm.bundle.manifest import Footprint, KVGeometry
from edgelm_tools.architectures.base import Done, ModelFacts
from edgelm_tools.architectures.decoder_graph import DecoderGraph
from edgelm_tools.architectures.decoder_weights import DecoderWeights
from edgelm_tools.calibration import LayeredDecoder, Sequences, calibrated
from edgelm_tools.checkpoint.base import TextAssets
from edgelm_tools.graph import GraphBuilder
from edgelm_tools.layered_reference import DecoderPieces
from edgelm_tools.quantize.schemes import INT8_BLOCK, Blockwise, Float32, Scheme, calibrates

WeightsT = TypeVar("WeightsT", bound=DecoderWeights)


class DecoderModel(ABC, Generic[WeightsT]):
    """Implements ``Architecture`` but for what a family does in its own way.

    Args:
        read: gives the weights, rotated or not.
    """

    def __init__(self, read: Callable[[bool], WeightsT]) -> None:
        self._read = read
        self._weights = read(False)
        self.spec = self._weights.spec

    @abstractmethod
    def _graph(self, g: GraphBuilder, weights: WeightsT, scheme: Scheme) -> DecoderGraph:
        """What builds the graph."""

    @abstractmethod
    def _embedded(self, weights: WeightsT, ids: Sequences) -> NDArray[np.float32]:
        """The residual stream before the first layer, (…, hidden), of token ids (sequences, tokens)."""

    @property
    def facts(self) -> ModelFacts:
        spec, head_size = self.spec, self._weights.layout.padded_size
        return ModelFacts(
            architecture=spec.model_type,
            family="decoder",
            tasks=("text-generation",),
            graphs=("decoder",),
            context_length=spec.context_length,
            vocab_size=spec.vocab_size,
            hidden_size=spec.embedding_size,
            footprint=Footprint(
                hidden_size=spec.hidden_size,
                intermediate_size=spec.intermediate_size,
                heads=spec.heads,
                head_size=head_size,
                attention=spec.attention,
                gated=spec.gated,
                tied=spec.tied_embeddings,
            ),
            kv=KVGeometry(spec.layers, spec.kv_heads, head_size),
            rotary_values=2 * self._weights.layout.padded_pairs,
            class_defaults=spec.special_tokens,
        )

    def parameters(self) -> int:
        return self._weights.parameters()

    def layers(self, role: str) -> int:
        return self.spec.layers

    def prepared(self, scheme: Scheme, assets: TextAssets | None, folder: Path) -> Scheme:
        if scheme.wants_rotation and not self.spec.can_rotate:
            return INT8_BLOCK
        if isinstance(scheme, Blockwise) and scheme.bits == 4:
            # Integers that the checkpoint has already stay as they are.
            scheme = replace(scheme, wants_rotation=self.spec.can_rotate and not self._weights.has_blocks(4))
        if not calibrates(scheme) or assets is None:
            return scheme
        return calibrated(scheme, self._layered(scheme), self.facts, assets, folder)

    def build(self, role: str, g: GraphBuilder, scheme: Scheme, done: Done) -> None:
        self._graph(g, self._weights_for(scheme), scheme).build(done)

    def pieces(self) -> DecoderPieces:
        """The model in fp32, to be computed layer by layer."""

        def graph(g: GraphBuilder) -> DecoderGraph:
            return self._graph(g, self._weights, Float32())

        return DecoderPieces(
            layers=self.spec.layers,
            hidden_size=self.spec.hidden_size,
            build_entry=lambda g: graph(g).build_entry(),
            build_layer=lambda g, i: graph(g).build_layer(i),
            build_exit=lambda g: graph(g).build_exit(),
        )

    def _weights_for(self, scheme: Scheme) -> WeightsT:
        return self._read(True) if scheme.wants_rotation else self._weights

    def _layered(self, scheme: Scheme) -> LayeredDecoder:
        weights = self._weights_for(scheme)
        return LayeredDecoder(
            layers=self.spec.layers,
            norm_epsilon=self.spec.norm_epsilon,
            embed=lambda ids: self._embedded(weights, ids),
            build_layer=lambda g, scheme, i: self._graph(g, weights, scheme).build_layer(i),
        )
