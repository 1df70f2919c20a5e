"""The finished sequences of a beam search: the best so many, found again as answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from edgelm.generation.beam_scores import OUT, Scores, largest
from edgelm.generation.logits_processors import Ids
from edgelm.generation.stopping import FinishReason


class Hypothesis(NamedTuple):
    """A finished answer, without the prompt, and its score: the sum of log probabilities after the length penalty.

    Where the settings allow fewer answers than are asked for, the last ones have no tokens and the score -inf.
    """

    tokens: tuple[int, ...]
    score: float
    finish_reason: FinishReason


class Finished:
    """The ``count`` best of all sequences that have finished, best first; of equals, those that came first.

    Attributes:
        scores: (count,) after the length penalty; -inf where there is none yet.
    """

    def __init__(self, count: int) -> None:
        self.scores: Scores = np.full(count, OUT)
        self._sequences: list[Ids | None] = [None] * count

    @property
    def some(self) -> bool:
        """Whether there is one."""
        return self._sequences[0] is not None

    @property
    def full(self) -> bool:
        """Whether one more would have to take another's place."""
        return self._sequences[-1] is not None

    @property
    def worst(self) -> np.float32:
        """The score that one more would have to beat."""
        return np.float32(self.scores[-1])

    def add(self, sequences: Sequence[Ids], scores: Scores) -> None:
        """Lets sequences compete for a place."""
        merged = np.concatenate((self.scores, scores))
        everyone = [*self._sequences, *sequences]
        best = largest(merged, len(self.scores))
        self._sequences = [everyone[index] for index in best]
        self.scores = merged[best]

    def hypotheses(self, prompt_length: int, ends: tuple[int, ...]) -> list[Hypothesis]:
        """All of them as answers to a prompt of that length, best first."""
        found = []
        for ids, score in zip(self._sequences, self.scores, strict=True):
            tokens = () if ids is None else tuple(ids[prompt_length:].tolist())
            reason = FinishReason.STOP if tokens and tokens[-1] in ends else FinishReason.LENGTH
            found.append(Hypothesis(tokens, float(score), reason))
        return found
