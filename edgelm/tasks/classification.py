"""Labels for texts and pairs of texts, by a model that was trained with those labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from edgelm.bundle.manifest import Head
from edgelm.checks import check_int
from edgelm.encoder_model import EncoderModel
from edgelm.errors import ConfigError, ModelError
from edgelm.tasks.probabilities import softmax
from edgelm.text.encoding import TextOrPair

TASK = "text-classification"
Function = Literal["softmax", "sigmoid", "none"]


@dataclass(frozen=True, slots=True)
class LabelScore:
    """A label and how well it fits: a probability, or what the head gave where it gives numbers of its own."""

    label: str
    score: float

    def as_dict(self) -> dict[str, Any]:
        """The same under transformers' names."""
        return {"label": self.label, "score": self.score}


class TextClassifier:
    """Labels texts with a model's head; may be used by many threads.

    Args:
        model: stays its caller's, who closes it.

    Raises:
        UnsupportedModelError: the model is for something else; says what.
    """

    def __init__(self, model: EncoderModel) -> None:
        model.require_task(TASK)
        head = model.bundle.manifest.head
        if head is None:
            raise ModelError(f"{model.name}: its manifest gives no labels")
        self._model = model
        self._head = head

    def classify(
        self,
        texts: Sequence[TextOrPair],
        *,
        top_k: int | None = 1,
        function: Function | None = None,
        truncation: bool = False,
    ) -> list[list[LabelScore]]:
        """The labels of each text, best first.

        Args:
            texts: strings, or tuples of two.
            top_k: how many labels of each; None: all.
            function: makes scores of the logits; None: as the head asks, see ``default_function``.
            truncation: cut texts that are longer than the model takes; else they are refused.

        Raises:
            ConfigError: ``top_k`` is below 1, or an unknown function.
            PromptError: a text cannot be encoded; ContextLengthError: it is too long.
        """
        check_top_k(top_k)
        chosen = default_function(self._head) if function is None else checked_function(function)
        outputs = self._model.run(self._model.encode(texts, truncation=truncation))
        return [best_labels(scores(output["logits"], chosen), self._head.labels, top_k) for output in outputs]


def default_function(head: Head) -> Function:
    """As transformers chooses: none for regression, sigmoid for labels that stand for themselves, else softmax."""
    if head.problem_type == "regression":
        return "none"
    if head.problem_type == "multi_label_classification" or len(head.labels) == 1:
        return "sigmoid"
    return "softmax"


def scores(logits: NDArray[np.float32], function: Function) -> NDArray[np.float32]:
    """Scores (…, labels) of logits (…, labels); both float32."""
    if function == "none":
        return logits
    if function == "sigmoid":
        # Written with tanh: the exponential of a large logit would overflow.
        return np.asarray(0.5 * (1.0 + np.tanh(0.5 * logits)), np.float32)
    return softmax(logits)


def best_labels(label_scores: NDArray[np.float32], labels: Sequence[str], top_k: int | None) -> list[LabelScore]:
    """The ``top_k`` best labels, best first; of equals, the one that the model names first."""
    order = np.argsort(-label_scores, kind="stable")[:top_k]
    return [LabelScore(labels[i], float(label_scores[i])) for i in order]


def checked_function(function: str) -> Function:
    """The function of that name, in any case of letters.

    Raises:
        ConfigError: there is none.
    """
    for known in get_args(Function):
        if str(function).lower() == known:
            return known  # type: ignore[no-any-return]
    raise ConfigError(f"the function must be one of {', '.join(get_args(Function))}, not {function!r:.80}")


def check_top_k(top_k: int | None) -> None:
    """Refuses what is no number of results.

    Raises:
        ConfigError: it is not None, and no integer of at least 1.
    """
    if top_k is not None:
        check_int("top_k", top_k, 1)
