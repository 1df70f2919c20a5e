"""Scores of any labels by encoders: by a model of entailment (NLI), or by vectors."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edgelm.encoder_model import EncoderModel
from edgelm.errors import PromptError, UnsupportedModelError
from edgelm.tasks.classification import TASK as CLASSIFICATION
from edgelm.tasks.embedding import TASK as EMBEDDING
from edgelm.tasks.probabilities import softmax
from edgelm.tasks.similarity import cosine_matrix
from edgelm.tasks.zero_shot import LabelRequest
from edgelm.text.encoding import Encoding, Truncation

# What cosines are multiplied with before the softmax: as models for sentences are trained (sentence-transformers).
COSINE_SCALE = 20.0


class NliScorer:
    """A ``LabelScorer`` by a model that tells whether one text follows from another.

    As transformers' pipeline does: a label's score is that of "the hypothesis made of it follows from the text".

    Args:
        model: stays its caller's, who closes it.

    Raises:
        UnsupportedModelError: the model is for something else (says what), or has no label "entailment".
    """

    def __init__(self, model: EncoderModel) -> None:
        model.require_task(CLASSIFICATION)
        entailment = entailment_index(model.labels)
        if entailment is None or len(model.labels) < 2:
            raise UnsupportedModelError(
                f"{model.name} has the labels {', '.join(model.labels)[:200]}: none is called 'entailment'"
            )
        self._entailment = entailment
        self._model = model

    def scores(self, asked: LabelRequest) -> NDArray[np.float32]:
        """See ``LabelScorer``."""
        hypotheses = [asked.sentence(label) for label in asked.labels]
        pairs = [(text, hypothesis) for text in asked.texts for hypothesis in hypotheses]
        encodings = self._cut(pairs) if asked.truncation else self._model.encode(pairs)
        logits = np.array([outputs["logits"] for outputs in self._model.run(encodings)], np.float32)
        by_text = logits.reshape(len(asked.texts), len(asked.labels), len(self._model.labels))
        return entailment_scores(by_text, self._entailment, multi_label=asked.multi_label)

    def _cut(self, pairs: Sequence[tuple[str, str]]) -> list[Encoding]:
        encoder = self._model.text_encoder
        try:
            return encoder.encode_batch(
                pairs, truncation=Truncation(self._model.context_length, "only_first"), offsets=False
            )
        except PromptError as error:
            if "too short" not in str(error):
                raise
        return self._model.encode(pairs)  # the hypothesis alone is too long: says so


class EmbeddingScorer:
    """A ``LabelScorer`` by vectors: a label fits as well as its vector is near to the text's.

    Args:
        model: stays its caller's, who closes it.

    Raises:
        UnsupportedModelError: the model is for something else; says what.
    """

    def __init__(self, model: EncoderModel) -> None:
        model.require_task(EMBEDDING)
        self._model = model

    def scores(self, asked: LabelRequest) -> NDArray[np.float32]:
        """See ``LabelScorer``; with ``multi_label`` they are cosines, none below 0."""
        targets = self._model.embed([asked.sentence(label) for label in asked.labels])
        cosines = cosine_matrix(self._model.embed(asked.texts, truncation=asked.truncation), targets)
        return np.maximum(cosines, 0) if asked.multi_label else softmax(COSINE_SCALE * cosines)


def entailment_index(labels: Sequence[str]) -> int | None:
    """The first label that begins with "entail", in any case of letters; None where there is none."""
    return next((index for index, label in enumerate(labels) if label.lower().startswith("entail")), None)


def entailment_scores(
    logits: NDArray[np.float32], entailment: int, *, multi_label: bool = False
) -> NDArray[np.float32]:
    """Scores (texts, candidates) float32 of NLI logits (texts, candidates, labels).

    One candidate of several: a softmax over the candidates' logits of entailment. ``multi_label``, or a single
    candidate: entailment against contradiction, which is the first label, or the last where entailment is the first.
    """
    if multi_label or logits.shape[1] == 1:
        contradiction = -1 if entailment == 0 else 0
        return softmax(logits[..., [contradiction, entailment]])[..., 1]
    return softmax(logits[..., entailment])
