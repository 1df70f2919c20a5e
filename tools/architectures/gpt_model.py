"""A checkpoint of the GPT family as the exporter sees it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgelm.bundle.manifest import Footprint, KVGeometry
from edgelm_tools.architectures.base import Done, ModelFacts
from edgelm_tools.architectures.gpt import build_decoder, build_layer
from edgelm_tools.architectures.gpt_members import MEMBERS
from edgelm_tools.architectures.gpt_spec import gpt_spec
from edgelm_tools.architectures.gpt_weights import GptWeights, can_rotate, heads_of
from edgelm_tools.calibration import LayeredDecoder, Sequences, calibrated, rows_of
from edgelm_tools.checkpoint.base import Checkpoint, TextAssets
from edgelm_tools.graph import GraphBuilder
from edgelm_tools.quantize.schemes import INT8_BLOCK, Rowwise, Scheme


class GptModel:
    """Implements ``Architecture``.

    Args:
        checkpoint: whose ``model_type`` is of this family.
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.spec = gpt_spec(checkpoint.config)
        self._checkpoint = checkpoint
        self._weights = GptWeights(checkpoint, self.spec)

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
            hidden_size=spec.embedding_size,
            footprint=Footprint(
                hidden_size=spec.hidden_size,
                intermediate_size=spec.intermediate_size,
                heads=spec.heads,
                head_size=heads_of(spec).padded_size,
                attention="biased scores" if spec.positions == "alibi" else "blocks",
                tied=spec.tied_embeddings,
            ),
            kv=KVGeometry(spec.layers, spec.heads, heads_of(spec).padded_size),
            class_defaults=self._default_tokens(),
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

    def _default_tokens(self) -> dict[str, int]:
        """The special tokens of the published models, as far as this one's vocabulary has them."""
        defaults = MEMBERS[self.spec.model_type].defaults
        tokens = {name: value for name, value in defaults.items() if name.endswith("_token_id")}
        return {name: value for name, value in tokens.items() if value < self.spec.vocab_size}

    def _weights_for(self, scheme: Scheme) -> GptWeights:
        return GptWeights(self._checkpoint, self.spec, rotated=scheme.wants_rotation)

    def _layered(self, scheme: Scheme) -> LayeredDecoder:
        spec, weights = self.spec, self._weights_for(scheme)

        def embed(ids: Sequences) -> NDArray[np.float32]:
            stream = rows_of(weights.embedding(), ids)
            if spec.positions == "learned":
                stream += rows_of(weights.positions(), np.arange(ids.shape[1])[None])
            return stream

        return LayeredDecoder(
            layers=spec.layers,
            norm_epsilon=spec.norm_epsilon,
            embed=embed,
            build_layer=lambda g, scheme, i: build_layer(g, spec, weights, scheme, i),
        )
