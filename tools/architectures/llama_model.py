"""A checkpoint of the LLaMA family as the exporter sees it."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from edgelm.bundle.manifest import Footprint, KVGeometry
from edgelm_tools.architectures.base import Done, ModelFacts
from edgelm_tools.architectures.llama import build_decoder, build_layer
from edgelm_tools.architectures.llama_spec import decoder_spec
from edgelm_tools.architectures.llama_weights import LlamaWeights, can_rotate, padded_head_size
from edgelm_tools.calibration import LayeredDecoder, calibrated, rows_of
from edgelm_tools.checkpoint.base import Checkpoint, TextAssets
from edgelm_tools.graph import GraphBuilder
from edgelm_tools.quantize.schemes import INT8_BLOCK, Rowwise, Scheme


class LlamaModel:
    """Implements ``Architecture``.

    Args:
        checkpoint: whose ``model_type`` is of this family.
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.spec = decoder_spec(checkpoint.config)
        self._checkpoint = checkpoint
        self._weights = LlamaWeights(checkpoint, self.spec)

    @property
    def facts(self) -> ModelFacts:
        spec = self.spec
        return ModelFacts(
            architecture=spec.model_type,
            family="decoder",
            tasks=("text-generation",),
            graphs=("decoder",),
            context_length=spec.context_length,
            vocab_size=spec.vocab_size,
            hidden_size=spec.hidden_size,
            footprint=Footprint(
                hidden_size=spec.hidden_size,
                intermediate_size=spec.intermediate_size,
                heads=spec.heads,
                head_size=padded_head_size(spec),
                attention="scores" if spec.attention_softcap else "blocks",
                gated=True,
                tied=spec.tied_embeddings,
            ),
            kv=KVGeometry(spec.layers, spec.kv_heads, padded_head_size(spec)),
        )

    def parameters(self) -> int:
        return self._weights.parameters()

    def layers(self, role: str) -> int:
        return self.spec.layers

    def prepared(self, scheme: Scheme, assets: TextAssets | None, folder: Path) -> Scheme:
        if scheme.wants_rotation and not can_rotate(self.spec):
            return INT8_BLOCK
        if not isinstance(scheme, Rowwise) or assets is None:
            return scheme
        return calibrated(scheme, self._layered(scheme), self.facts, assets, folder)

    def build(self, role: str, g: GraphBuilder, scheme: Scheme, done: Done) -> None:
        build_decoder(g, self.spec, self._weights_for(scheme), scheme, done=done)

    def _weights_for(self, scheme: Scheme) -> LlamaWeights:
        return LlamaWeights(self._checkpoint, self.spec, rotated=scheme.wants_rotation)

    def _layered(self, scheme: Scheme) -> LayeredDecoder:
        spec, weights = self.spec, self._weights_for(scheme)
        return LayeredDecoder(
            layers=spec.layers,
            norm_epsilon=spec.norm_epsilon,
            embed=lambda ids: rows_of(weights.embedding(), ids) * np.float32(spec.embedding_scale),
            build_layer=lambda g, scheme, i: build_layer(g, spec, weights, scheme, i),
        )
