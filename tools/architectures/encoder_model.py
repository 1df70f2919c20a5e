"""A checkpoint of the BERT family as the exporter sees it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgelm.bundle.manifest import Footprint
from edgelm_tools.architectures.base import Done, ModelFacts
from edgelm_tools.architectures.encoder import LINEAR_LAYERS, build_encoder
from edgelm_tools.architectures.encoder_spec import EncoderSpec, encoder_spec
from edgelm_tools.architectures.encoder_weights import EncoderWeights
from edgelm_tools.calibration_encoder import encoder_inputs
from edgelm_tools.checkpoint.base import Checkpoint, TextAssets
from edgelm_tools.graph import GraphBuilder
from edgelm_tools.quantize.schemes import Rowwise, Scheme
from edgelm_tools.quantize.smoothed import SmoothedRows


class EncoderModel:
    """Implements ``Architecture``.

    Args:
        checkpoint: whose ``model_type`` is of this family.
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.spec = _as_stored(encoder_spec(checkpoint.config), checkpoint)
        self._weights = EncoderWeights(checkpoint, self.spec)

    @property
    def facts(self) -> ModelFacts:
        spec = self.spec
        return ModelFacts(
            architecture=spec.model_type,
            family="encoder",
            tasks=_tasks(spec),
            graphs=("encoder",),
            context_length=spec.context_length,
            vocab_size=spec.vocab_size,
            hidden_size=spec.hidden_size,
            footprint=Footprint(
                hidden_size=spec.hidden_size,
                intermediate_size=spec.intermediate_size,
                heads=spec.heads,
                head_size=spec.hidden_size // spec.heads,
                attention=_attention(spec),
                tied=spec.task == "masked" and spec.tied,
            ),
            head=spec.head,
        )

    def parameters(self) -> int:
        return self._weights.parameters()

    def layers(self, role: str) -> int:
        return len(self.spec.layer_paths)

    def prepared(self, scheme: Scheme, assets: TextAssets | None, folder: Path) -> Scheme:
        if not isinstance(scheme, Rowwise):
            return scheme
        return SmoothedRows(inputs={} if assets is None else self._inputs(assets, folder))

    def build(self, role: str, g: GraphBuilder, scheme: Scheme, done: Done) -> None:
        build_encoder(g, self.spec, self._weights, scheme, done)

    def _inputs(self, assets: TextAssets, folder: Path) -> dict[str, NDArray[np.float32]]:
        """The largest inputs of each linear layer; layers that share their weights share them, too."""
        bare = replace(self.spec, task="bare")

        def build(g: GraphBuilder, scheme: Scheme) -> None:
            build_encoder(g, bare, self._weights, scheme, lambda: None)

        found = encoder_inputs(build, self.facts, assets, folder)
        for path in set(self.spec.layer_paths):
            alike = [i for i, other in enumerate(self.spec.layer_paths) if other == path]
            for kind in LINEAR_LAYERS:
                largest = np.max([found[f"layer{i}.{kind}"] for i in alike], axis=0)
                found.update({f"layer{i}.{kind}": largest for i in alike})
        return found


def _as_stored(spec: EncoderSpec, checkpoint: Checkpoint) -> EncoderSpec:
    """The bare encoder, if the head that predicts tokens was left out of the checkpoint.

    sentence-transformers' encoders are published so; their configurations still name the class they were trained from.
    """
    head = f"{spec.member.masked.dense}."
    if spec.task == "masked" and not any(name.startswith(head) for name in checkpoint.names()):
        return replace(spec, task="bare")
    return spec


def _attention(spec: EncoderSpec) -> str:
    """One of ``ATTENTION_KINDS``."""
    if spec.disentangled:
        return "disentangled scores"
    return "biased scores" if spec.relative_buckets else "scores"


def _tasks(spec: EncoderSpec) -> tuple[str, ...]:
    if spec.task == "sequence" and spec.head and len(spec.head.labels) == 1:
        # One score for a text, or for a query and a passage: what rerankers give.
        return "text-ranking", "text-classification"
    return {
        "bare": ("feature-extraction",),
        "sequence": ("text-classification",),
        "token": ("token-classification",),
        "question": ("question-answering",),
        "masked": ("fill-mask",),
    }[spec.task]
