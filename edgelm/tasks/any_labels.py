"""The way to label texts with any labels that suits a model."""

from __future__ import annotations

from edgelm.encoder_model import EncoderModel
from edgelm.language_model import LanguageModel
from edgelm.tasks.classification import TASK as CLASSIFICATION
from edgelm.tasks.instruct_zero_shot import InstructScorer
from edgelm.tasks.zero_shot import LabelScorer, ZeroShotClassifier
from edgelm.tasks.zero_shot_encoders import EmbeddingScorer, NliScorer


def zero_shot_classifier(model: EncoderModel | LanguageModel) -> ZeroShotClassifier:
    """By entailment where the model has a head, else by its vectors, or by asking it.

    Raises:
        UnsupportedModelError: the model has a head for something else.
    """
    return ZeroShotClassifier(_scorer(model))


def _scorer(model: EncoderModel | LanguageModel) -> LabelScorer:
    if not isinstance(model, EncoderModel):
        return InstructScorer(model)
    return NliScorer(model) if CLASSIFICATION in model.tasks else EmbeddingScorer(model)
