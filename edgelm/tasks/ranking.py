"""Passages in order of how well they answer a query: by a cross-encoder, which reads both together, or by vectors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgelm.encoder_model import EncoderModel
from edgelm.errors import UnsupportedModelError
from edgelm.tasks.classification import Function, check_top_k, checked_function, scores
from edgelm.tasks.similarity import cosine_matrix
from edgelm.text.encoding import refuse_single

TASK = "text-ranking"
_EMBEDS = "feature-extraction"


@dataclass(frozen=True, slots=True)
class RankedPassage:
    """A passage, its place among those given, and its score: higher is better."""

    index: int
    score: float
    text: str

    def as_dict(self) -> dict[str, Any]:
        """The same as plain values."""
        return {"index": self.index, "score": self.score, "text": self.text}


class Ranker:
    """Ranks passages; may be used by many threads.

    Args:
        model: a cross-encoder, or a model that makes vectors. It stays its caller's, who closes it.

    Raises:
        UnsupportedModelError: the model is for something else; says what.
    """

    def __init__(self, model: EncoderModel) -> None:
        if TASK not in model.tasks and _EMBEDS not in model.tasks:
            raise UnsupportedModelError(
                f"{model.name} is for {', '.join(model.tasks)}; ranking takes a model for {TASK} or {_EMBEDS}"
            )
        self._model = model

    def rank(
        self,
        query: str,
        passages: Sequence[str],
        *,
        top_k: int | None = None,
        function: Function = "sigmoid",
        truncation: bool = False,
    ) -> list[RankedPassage]:
        """The passages, best first; of equals, the one given first.

        Args:
            query: what is looked for.
            passages: where.
            top_k: how many are returned; None: all.
            function: makes scores of a cross-encoder's logits; by vectors, scores are cosines.
            truncation: cut what is longer than the model takes; else it is refused.

        Raises:
            ConfigError: ``top_k`` is below 1, or an unknown function.
            PromptError: a text cannot be encoded; ContextLengthError: it is too long.
        """
        check_top_k(top_k)
        chosen = checked_function(function)
        refuse_single(passages)
        if not passages:
            return []
        if TASK in self._model.tasks:
            found = self._cross_scores(query, passages, chosen, truncation)
        else:
            vectors = self._model.embed([query, *passages], truncation=truncation)
            found = cosine_matrix(vectors[:1], vectors[1:])[0]
        order = np.argsort(-found, kind="stable")[:top_k]
        return [RankedPassage(int(i), float(found[i]), passages[i]) for i in order]

    def _cross_scores(
        self, query: str, passages: Sequence[str], function: Function, truncation: bool
    ) -> NDArray[np.float32]:
        encodings = self._model.encode([(query, passage) for passage in passages], truncation=truncation)
        logits = np.array([outputs["logits"][0] for outputs in self._model.run(encodings)], np.float32)
        return scores(logits[:, None], function)[:, 0]
