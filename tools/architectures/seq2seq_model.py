"""An encoder-decoder's checkpoint as the exporter sees it, whatever its family."""

from __future__ import annotations

from pathlib import Path

from edgelm.bundle.manifest import Footprint, KVGeometry
from edgelm_tools.architectures.base import Done, ModelFacts
from edgelm_tools.architectures.head_layout import layout_of_heads
from edgelm_tools.architectures.seq2seq_graph import build_decoder, build_encoder
from edgelm_tools.architectures.seq2seq_spec import Seq2SeqSpec
from edgelm_tools.architectures.seq2seq_weights import Seq2SeqWeights
from edgelm_tools.checkpoint.base import Checkpoint, TextAssets
from edgelm_tools.graph import GraphBuilder
from edgelm_tools.quantize.schemes import INT8_BLOCK, Scheme


class Seq2SeqModel:
    """Implements ``Architecture``.

    Args:
        checkpoint: whose tensors are read.
        spec: what its configuration says.
    """

    def __init__(self, checkpoint: Checkpoint, spec: Seq2SeqSpec) -> None:
        self.spec = spec
        self._weights = Seq2SeqWeights(checkpoint, spec)

    @property
    def facts(self) -> ModelFacts:
        spec, decoder = self.spec, self.spec.decoder
        return ModelFacts(
            architecture=spec.model_type,
            family="encoder-decoder",
            tasks=spec.tasks,
            graphs=("encoder", "decoder"),
            context_length=spec.context_length,
            vocab_size=spec.vocab_size,
            hidden_size=spec.hidden_size,
            footprint=footprint_of(spec),
            kv=KVGeometry(decoder.layers, decoder.heads, layout_of_heads(decoder.head_size).padded_size),
            decoder_start_token_id=spec.decoder_start_token_id,
            source_length=spec.source_length,
            class_defaults=spec.class_defaults,
        )

    def parameters(self) -> int:
        return self._weights.parameters()

    def layers(self, role: str) -> int:
        return self.spec.stack(role).layers

    def prepared(self, scheme: Scheme, assets: TextAssets | None, folder: Path) -> Scheme:
        return INT8_BLOCK if scheme.wants_rotation else scheme

    def build(self, role: str, g: GraphBuilder, scheme: Scheme, done: Done) -> None:
        build = build_encoder if role == "encoder" else build_decoder
        build(g, self.spec, self._weights, scheme, done)


def footprint_of(spec: Seq2SeqSpec) -> Footprint:
    """The larger of both halves."""
    stacks = (spec.encoder, spec.decoder)
    return Footprint(
        hidden_size=spec.hidden_size,
        intermediate_size=max(stack.intermediate_size for stack in stacks),
        heads=max(stack.heads for stack in stacks),
        head_size=max(layout_of_heads(stack.head_size).padded_size for stack in stacks),
        attention="biased scores" if spec.relative_bias else "scores",
        gated=spec.gated,
        tied=spec.tied,
    )
