"""A checkpoint of the GPT family as the exporter sees it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edgelm_tools.architectures.decoder_model import DecoderModel
from edgelm_tools.architectures.gpt import GptGraph
from edgelm_tools.architectures.gpt_spec import gpt_spec
from edgelm_tools.architectures.gpt_weights import GptWeights
from edgelm_tools.calibration import Sequences, rows_of
from edgelm_tools.checkpoint.base import Checkpoint
from edgelm_tools.graph import GraphBuilder
from edgelm_tools.quantize.scheme import Scheme


class GptModel(DecoderModel[GptWeights]):
    """Implements ``Architecture``.

    Args:
        checkpoint: whose ``model_type`` is of this family.
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        spec = gpt_spec(checkpoint.config)
        super().__init__(lambda rotated: GptWeights(checkpoint, spec, rotated))

    def _graph(self, g: GraphBuilder, weights: GptWeights, scheme: Scheme) -> GptGraph:
        return GptGraph(g, weights.spec, weights, scheme)

    def _embedded(self, weights: GptWeights, ids: Sequences) -> NDArray[np.float32]:
        stream = rows_of(weights.embedding(), ids)
        if weights.spec.positions == "learned":
            stream += rows_of(weights.positions(), np.arange(ids.shape[1])[None])
        return stream
