"""A Bergamot (Firefox Translations) checkpoint as the exporter sees it."""

from __future__ import annotations

import math
from pathlib import Path

from edgelm.bundle.manifest import Footprint, RecurrentState
from edgelm_tools.architectures.base import Done, ModelFacts
from edgelm_tools.architectures.bergamot import BergamotGraph
from edgelm_tools.architectures.bergamot_spec import bergamot_spec
from edgelm_tools.architectures.bergamot_weights import EMBEDDING_NAME, BergamotWeights
from edgelm_tools.checkpoint.base import Checkpoint, TextAssets
from edgelm_tools.graph import GraphBuilder
from edgelm_tools.quantize.schemes import CarriedInt8, Rowwise, Scheme

# Its id in Marian's vocabularies. The decoder's first input stands for no token; any id will do.
END_OF_SENTENCE_ID = 0


class BergamotModel:
    """Implements ``Architecture``."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.spec = bergamot_spec(checkpoint.config, checkpoint.shape(EMBEDDING_NAME)[0])
        self._checkpoint = checkpoint
        self._weights = BergamotWeights(checkpoint, self.spec)

    @property
    def facts(self) -> ModelFacts:
        spec = self.spec
        return ModelFacts(
            architecture="bergamot",
            family="encoder-decoder",
            tasks=("translation",),
            graphs=("encoder", "decoder"),
            context_length=spec.target_length,
            vocab_size=spec.vocab_size,
            hidden_size=spec.width,
            footprint=Footprint(
                hidden_size=spec.width,
                intermediate_size=spec.inner_width,
                heads=spec.heads,
                head_size=spec.head_size,
                attention="scores",
                tied=True,
            ),
            state=RecurrentState(spec.decoder_layers, spec.width),
            decoder_start_token_id=END_OF_SENTENCE_ID,
            source_length=spec.source_length,
        )

    def parameters(self) -> int:
        return sum(math.prod(self._checkpoint.shape(name)) for name in self._checkpoint.names())

    def layers(self, role: str) -> int:
        return self.spec.encoder_layers if role == "encoder" else self.spec.decoder_layers

    def prepared(self, scheme: Scheme, assets: TextAssets | None, folder: Path) -> Scheme:
        """int8 is what the checkpoint has already."""
        return CarriedInt8() if isinstance(scheme, Rowwise) else scheme

    def build(self, role: str, g: GraphBuilder, scheme: Scheme, done: Done) -> None:
        graph = BergamotGraph(g, self.spec, self._weights, scheme)
        (graph.build_encoder if role == "encoder" else graph.build_decoder)(done)
