"""Features of texts: the hidden states of their tokens. (A vector for each text: ``EncoderModel.embed``.)"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from edgelm.encoder_model import HIDDEN, EncoderModel

TASK = "feature-extraction"


class FeatureExtractor:
    """Gives the hidden states of tokens; may be used by many threads.

    Args:
        model: stays its caller's, who closes it.

    Raises:
        UnsupportedModelError: the model is for something else; says what.
    """

    def __init__(self, model: EncoderModel) -> None:
        model.require_task(TASK)
        self._model = model

    def extract(self, texts: Sequence[str], *, truncation: bool = False) -> Iterator[NDArray[np.float32]]:
        """For each text (tokens, hidden) float32, its special tokens included.

        Args:
            texts: strings.
            truncation: cut texts that are longer than the model takes; else they are refused.

        Raises:
            PromptError: a text cannot be encoded; ContextLengthError: it is too long.
        """
        encodings = self._model.encode(texts, truncation=truncation)
        return (outputs[HIDDEN] for outputs in self._model.run(encodings))
