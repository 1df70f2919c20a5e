"""A checkpoint of the LLaMA family as the exporter sees it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import tokenizers

from edgelm.bundle.manifest import KVGeometry
from edgelm.errors import ModelError
from edgelm.text.chat_template import ChatTemplate
from edgelm.text.tokenizer import Tokenizer
from edgelm_tools.architectures.base import Done, ModelFacts
from edgelm_tools.architectures.llama import build_decoder
from edgelm_tools.architectures.llama_spec import decoder_spec
from edgelm_tools.architectures.llama_weights import LlamaWeights, can_rotate, padded_head_size
from edgelm_tools.calibration import LayerwiseCalibration, calibration_sequences
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
        return replace(scheme, calibration=self._calibration(scheme, assets, folder))

    def build(self, role: str, g: GraphBuilder, scheme: Scheme, done: Done) -> None:
        build_decoder(g, self.spec, self._weights_for(scheme), scheme, done=done)

    def _weights_for(self, scheme: Scheme) -> LlamaWeights:
        return LlamaWeights(self._checkpoint, self.spec, rotated=scheme.wants_rotation)

    def _calibration(self, scheme: Rowwise, assets: TextAssets, folder: Path) -> LayerwiseCalibration:
        tokenizer = Tokenizer(tokenizers.Tokenizer.from_buffer(assets.tokenizer))
        if tokenizer.vocab_size > self.spec.vocab_size:
            raise ModelError(
                f"the tokenizer has ids up to {tokenizer.vocab_size - 1}, the embedding {self.spec.vocab_size} rows"
            )
        template = None
        if assets.chat_template:
            template = ChatTemplate(assets.chat_template, special_tokens=assets.special_tokens)
        ids = calibration_sequences(tokenizer, template, self.spec.context_length)
        return LayerwiseCalibration(self._weights_for(scheme), ids, hadamard_size=scheme.hadamard_size, folder=folder)
