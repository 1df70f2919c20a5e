"""Labels that nobody trained the model with: by a model of entailment (NLI), by vectors, or by a language model.

All give a ``ZeroShotResult``. Their scores come from different places: probabilities of entailment, a softmax over
cosines, likelihoods of the text; they are for ranking labels within one model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from edgelm.encoder_model import EncoderModel
from edgelm.errors import ConfigError, PromptError, UnsupportedModelError
from edgelm.tasks.classification import TASK as CLASSIFICATION
from edgelm.tasks.probabilities import softmax
from edgelm.tasks.similarity import cosine_matrix
from edgelm.text.encoding import Encoding, Truncation, refuse_single

HYPOTHESIS_TEMPLATE = "This example is {}."
# What cosines are multiplied with before the softmax: as models for sentences are trained (sentence-transformers).
COSINE_SCALE = 20.0


@dataclass(frozen=True, slots=True)
class ZeroShotResult:
    """A text with its labels, best first, and their scores."""

    sequence: str
    labels: tuple[str, ...]
    scores: tuple[float, ...]

    def as_dict(self) -> dict[str, Any]:
        """The same under transformers' names."""
        return {"sequence": self.sequence, "labels": list(self.labels), "scores": list(self.scores)}


class ZeroShotClassifier(Protocol):
    """Labels texts with any labels."""

    def classify(
        self,
        texts: Sequence[str],
        labels: str | Sequence[str],
        *,
        hypothesis_template: str = HYPOTHESIS_TEMPLATE,
        multi_label: bool = False,
        truncation: bool = False,
    ) -> list[ZeroShotResult]:
        """Scores of every label for each text.

        Args:
            texts: strings.
            labels: a list, or a string with commas.
            hypothesis_template: makes a sentence of a label, which stands for ``{}``.
            multi_label: each label holds or not, whatever the others do; else one of them does, and scores add up to 1.
            truncation: cut texts that are longer than the model takes, never labels; else they are refused.

        Raises:
            ConfigError: no label, or a template without ``{}``.
            PromptError: a text or label is empty or cannot be encoded; ContextLengthError: it is too long.
        """
        ...


class NliClassifier:
    """A ``ZeroShotClassifier`` by a model that tells whether one text follows from another.

    As transformers' pipeline does: a label's score is that of "the hypothesis made of it follows from the text".

    Args:
        model: stays its caller's, who closes it.

    Raises:
        UnsupportedModelError: the model is for something else (says what), or has no label "entailment".
    """

    def __init__(self, model: EncoderModel) -> None:
        model.require_task(CLASSIFICATION)
        self._entailment = entailment_index(model.labels)
        if self._entailment is None or len(model.labels) < 2:
            raise UnsupportedModelError(
                f"{model.name} has the labels {', '.join(model.labels)[:200]}: none is called 'entailment'"
            )
        self._model = model

    def classify(
        self,
        texts: Sequence[str],
        labels: str | Sequence[str],
        *,
        hypothesis_template: str = HYPOTHESIS_TEMPLATE,
        multi_label: bool = False,
        truncation: bool = False,
    ) -> list[ZeroShotResult]:
        """See ``ZeroShotClassifier``."""
        names = checked_labels(labels)
        hypotheses = [filled_template(hypothesis_template, name) for name in names]
        check_texts(texts)
        pairs = [(text, hypothesis) for text in texts for hypothesis in hypotheses]
        encodings = self._cut(pairs) if truncation else self._model.encode(pairs)
        logits = np.array([outputs["logits"] for outputs in self._model.run(encodings)], np.float32)
        by_text = logits.reshape(len(texts), len(names), len(self._model.labels))
        found = entailment_scores(by_text, self._entailment or 0, multi_label=multi_label)
        return [ranked(text, names, row) for text, row in zip(texts, found, strict=True)]

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


class EmbeddingClassifier:
    """A ``ZeroShotClassifier`` by vectors: a label fits as well as its vector is near to the text's.

    Args:
        model: stays its caller's, who closes it.

    Raises:
        UnsupportedModelError: the model makes no vectors.
    """

    def __init__(self, model: EncoderModel) -> None:
        model.require_task("feature-extraction")
        self._model = model

    def classify(
        self,
        texts: Sequence[str],
        labels: str | Sequence[str],
        *,
        hypothesis_template: str = HYPOTHESIS_TEMPLATE,
        multi_label: bool = False,
        truncation: bool = False,
    ) -> list[ZeroShotResult]:
        """See ``ZeroShotClassifier``; with ``multi_label`` the scores are cosines, none below 0."""
        names = checked_labels(labels)
        check_texts(texts)
        targets = self._model.embed([filled_template(hypothesis_template, name) for name in names])
        cosines = cosine_matrix(self._model.embed(texts, truncation=truncation), targets)
        found = np.maximum(cosines, 0) if multi_label else softmax(COSINE_SCALE * cosines)
        return [ranked(text, names, row) for text, row in zip(texts, found, strict=True)]


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


def ranked(text: str, labels: Sequence[str], label_scores: NDArray[np.float32]) -> ZeroShotResult:
    """The result of one text, labels by falling score; of equals, the later one first, as in transformers."""
    order = np.argsort(label_scores)[::-1]
    return ZeroShotResult(text, tuple(labels[i] for i in order), tuple(float(label_scores[i]) for i in order))


def checked_labels(labels: str | Sequence[str]) -> list[str]:
    """The labels of a list, or of a string with commas.

    Raises:
        ConfigError: there is none, or one is empty or no string.
    """
    names = [name.strip() for name in labels.split(",") if name.strip()] if isinstance(labels, str) else list(labels)
    if not names:
        raise ConfigError("give at least one candidate label")
    for name in names:
        if not isinstance(name, str) or not name.strip():
            raise ConfigError(f"a candidate label must be a text that is not empty, not {name!r:.80}")
    return names


def filled_template(template: str, label: str) -> str:
    """The template with the label in place of every ``{}``.

    Raises:
        ConfigError: it has no ``{}``.
    """
    if not isinstance(template, str) or "{}" not in template:
        raise ConfigError(f"hypothesis_template must have {{}} where the label goes, unlike {template!r:.80}")
    return template.replace("{}", label)


def check_texts(texts: Sequence[str]) -> None:
    """Refuses a single string, which would be taken letter by letter, and empty texts.

    Raises:
        PromptError: it is one, or a text is empty.
    """
    refuse_single(texts)
    for index, text in enumerate(texts):
        if not isinstance(text, str) or not text.strip():
            raise PromptError(f"text {index} must be a text that is not empty, not {text!r:.80}")
