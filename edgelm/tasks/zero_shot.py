"""Labels that nobody trained the model with: what is the same whichever way they are scored.

Scores come from different places: probabilities of entailment, a softmax over cosines, likelihoods of the text; they
are for ranking labels within one model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from edgelm.errors import ConfigError, PromptError
from edgelm.text.encoding import refuse_single

HYPOTHESIS_TEMPLATE = "This example is {}."


@dataclass(frozen=True, slots=True)
class ZeroShotResult:
    """A text with its labels, best first, and their scores."""

    sequence: str
    labels: tuple[str, ...]
    scores: tuple[float, ...]

    def as_dict(self) -> dict[str, Any]:
        """The same under transformers' names."""
        return {"sequence": self.sequence, "labels": list(self.labels), "scores": list(self.scores)}


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelRequest:
    """Which labels shall be scored for which texts, and how; all of it checked.

    Attributes:
        texts: strings that are not empty, at least one.
        labels: at least one.
        template: makes the sentence of a label that is compared with a text.
        multi_label: each label holds or not, whatever the others do; else one of them does, and scores add up to 1.
        truncation: cut texts that are longer than the model takes, never labels; else they are refused.
    """

    texts: Sequence[str]
    labels: Sequence[str]
    template: str
    multi_label: bool
    truncation: bool

    def sentence(self, label: str) -> str:
        """The template with the label in place of every ``{}``."""
        return self.template.replace("{}", label)


class LabelScorer(Protocol):
    """Scores labels for texts; see ``NliScorer``, ``EmbeddingScorer`` and ``InstructScorer``."""

    def scores(self, asked: LabelRequest) -> NDArray[np.float32]:
        """(texts, labels) float32: how well each label fits each text.

        Raises:
            PromptError: a text or label cannot be encoded; ContextLengthError: it is too long.
        """
        ...


class ZeroShotClassifier:
    """Labels texts with any labels; may be used by many threads.

    Args:
        scorer: the way that suits the model; ``any_labels.zero_shot_classifier`` chooses it.
    """

    def __init__(self, scorer: LabelScorer) -> None:
        self._scorer = scorer

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
            multi_label: see ``LabelRequest``, as for ``truncation``.
            truncation: see there.

        Raises:
            ConfigError: no label, or a template without ``{}``.
            PromptError: a text or label is empty or cannot be encoded; ContextLengthError: it is too long.
        """
        names = checked_labels(labels)
        check_template(hypothesis_template)
        check_texts(texts)
        if not texts:
            return []
        asked = LabelRequest(
            texts=texts, labels=names, template=hypothesis_template, multi_label=multi_label, truncation=truncation
        )
        found = self._scorer.scores(asked)
        return [ranked(text, names, row) for text, row in zip(texts, found, strict=True)]


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


def check_template(template: str) -> None:
    """Refuses a template that has no place for the label.

    Raises:
        ConfigError: it has no ``{}``.
    """
    if not isinstance(template, str) or "{}" not in template:
        raise ConfigError(f"hypothesis_template must have {{}} where the label goes, unlike {template!r:.80}")


def check_texts(texts: Sequence[str]) -> None:
    """Refuses a single string, which would be taken letter by letter, and empty texts.

    Raises:
        PromptError: it is one, or a text is empty.
    """
    refuse_single(texts)
    for index, text in enumerate(texts):
        if not isinstance(text, str) or not text.strip():
            raise PromptError(f"text {index} must be a text that is not empty, not {text!r:.80}", place=index)
