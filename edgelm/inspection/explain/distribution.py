"""A distribution over the tokens that may come, as explanations look at it: in float64, whoever computed the logits."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from edgelm.generation.logits_processors import REMOVED, Logits

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Distribution:
    """What may come, and how likely.

    Attributes:
        tokens: (K,) their ids, ascending.
        logits: (K,) float32, finite.
    """

    tokens: NDArray[np.intp]
    logits: Logits

    @classmethod
    def of(cls, logits: Logits, tokens: NDArray[np.intp] | None = None) -> Distribution:
        """A copy of what is allowed among logits, of ``tokens``, or of all."""
        allowed = np.flatnonzero(logits != REMOVED)
        return cls(allowed if tokens is None else tokens[allowed], logits[allowed])

    @cached_property
    def log_probabilities(self) -> Floats:
        """(K,) in nats."""
        shifted = self.logits.astype(np.float64) - float(self.logits.max())
        normalized: Floats = shifted - np.log(np.exp(shifted).sum())
        return normalized

    @cached_property
    def probabilities(self) -> Floats:
        """(K,)."""
        return np.exp(self.log_probabilities)

    @cached_property
    def entropy(self) -> float:
        """In nats."""
        return max(0.0, -float(self.probabilities @ self.log_probabilities))

    @cached_property
    def ends(self) -> Floats:
        """(K,) the probability of each token and all of lower ids: where its interval of the draw ends."""
        return self.probabilities.cumsum()

    def place(self, token: int) -> int | None:
        """Where the token is among ``tokens``; None: it may not come."""
        place = int(self.tokens.searchsorted(token))
        return place if place < self.tokens.size and self.tokens[place] == token else None

    def probability(self, token: int) -> float:
        """0 where it may not come."""
        place = self.place(token)
        return 0.0 if place is None else float(self.probabilities[place])

    def surprise(self, token: int) -> float:
        """-log p, in nats; infinite where it may not come."""
        place = self.place(token)
        return np.inf if place is None else max(0.0, -float(self.log_probabilities[place]))

    def interval(self, token: int) -> tuple[float, float] | None:
        """Where it lies in [0, 1), tokens being in the order of their ids."""
        place = self.place(token)
        if place is None:
            return None
        return float(self.ends[place - 1]) if place else 0.0, float(self.ends[place])

    def likeliest(self, count: int) -> list[int]:
        """The ids of so many of the likeliest, or of all, likeliest first; of equals, the lowest ids."""
        near = np.arange(self.tokens.size)
        if count < near.size:
            rank = near.size - count
            near = np.flatnonzero(self.logits >= np.partition(self.logits, rank)[rank])
        order = near[np.argsort(-self.logits[near], kind="stable")[:count]]
        return [int(token) for token in self.tokens[order]]

    def without(self, others: Distribution) -> Distribution:
        """The tokens that ``others`` does not have."""
        gone = ~np.isin(self.tokens, others.tokens, assume_unique=True)
        return Distribution(self.tokens[gone], self.logits[gone])

    def mass(self, part: Distribution) -> float:
        """The probability that the tokens of ``part``, all of them also here, have here."""
        return float(self.probabilities[self.tokens.searchsorted(part.tokens)].sum())

    def equals(self, other: Distribution) -> bool:
        """Whether it is the same distribution, logit by logit."""
        return np.array_equal(self.tokens, other.tokens) and np.array_equal(self.logits, other.logits)
