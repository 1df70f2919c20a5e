"""A checkpoint of the LLaMA family as the exporter sees it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edgelm_tools.architectures.decoder_model import DecoderModel
from edgelm_tools.architectures.llama import LlamaGraph
from edgelm_tools.architectures.llama_spec import llama_spec
from edgelm_tools.architectures.llama_weights import LlamaWeights
from edgelm_tools.calibration import Sequences, rows_of
from edgelm_tools.checkpoint.base import Checkpoint
from edgelm_tools.graph import GraphBuilder
from edgelm_tools.quantize.scheme import Scheme


class LlamaModel(DecoderModel[LlamaWeights]):
    """Implements ``Architecture``.

    Args:
        checkpoint: whose ``model_type`` is of this family.
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        spec = llama_spec(checkpoint.config)
        super().__init__(lambda rotated: LlamaWeights(checkpoint, spec, rotated))

    def _graph(self, g: GraphBuilder, weights: LlamaWeights, scheme: Scheme) -> LlamaGraph:
        return LlamaGraph(g, weights.spec, weights, scheme)

    def _embedded(self, weights: LlamaWeights, ids: Sequences) -> NDArray[np.float32]:
        stream: NDArray[np.float32] = rows_of(weights.embedding(), ids) * np.float32(weights.spec.embedding_scale)
        return stream
