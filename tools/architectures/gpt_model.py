"""A checkpoint of the GPT family as the exporter sees it."""

from __future__ import annotations

from pathlib import Path

from edgelm.bundle.manifest import KVGeometry
from edgelm_tools.architectures.base import Done, ModelFacts
from edgelm_tools.architectures.gpt import build_decoder
from edgelm_tools.architectures.gpt_spec import gpt_spec
from edgelm_tools.architectures.gpt_weights import GptWeights, can_rotate, heads_of
from edgelm_tools.checkpoint.base import Checkpoint, TextAssets
from edgelm_tools.graph import GraphBuilder
from edgelm_tools.quantize.schemes import INT8_BLOCK, Scheme


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
            kv=KVGeometry(spec.layers, spec.heads, heads_of(spec).padded_size),
        )

    def parameters(self) -> int:
        return self._weights.parameters()

    def layers(self, role: str) -> int:
        return self.spec.layers

    def prepared(self, scheme: Scheme, assets: TextAssets | None, folder: Path) -> Scheme:
        return INT8_BLOCK if scheme.wants_rotation and not can_rotate(self.spec) else scheme

    def build(self, role: str, g: GraphBuilder, scheme: Scheme, done: Done) -> None:
        build_decoder(g, self.spec, self._weights_for(scheme), scheme, done=done)

    def _weights_for(self, scheme: Scheme) -> GptWeights:
        return GptWeights(self._checkpoint, self.spec, rotated=scheme.wants_rotation)
