"""Sampling with guesses: tokens that were drawn from another distribution are kept or replaced so that what comes has
the model's own.

Source: Leviathan et al. 2023, section 2.3: a guess that was drawn with probability q and should have had p is kept with
probability min(1, p/q), and else replaced by a draw from what is left of the distribution, max(0, p - q).
"""

from __future__ import annotations

from typing import NamedTuple, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from edgelm.config import GenerationConfig
from edgelm.generation.logits_processors import Logits
from edgelm.generation.sampling import GreedySampler, StochasticSampler, likeliest, make_narrower, next_uniform


class Distribution(NamedTuple):
    """Probabilities of the tokens that can come.

    Attributes:
        tokens: (N,) their ids, ascending; None: the whole vocabulary.
        probabilities: (N,) float64.
    """

    tokens: NDArray[np.intp] | None
    probabilities: NDArray[np.float64]

    @classmethod
    def of_logits(cls, tokens: NDArray[np.intp] | None, logits: Logits) -> Self:
        """The softmax of (N,) logits."""
        with np.errstate(over="ignore", under="ignore"):
            weights = np.exp(np.subtract(logits, logits.max(), dtype=np.float64))
        return cls(tokens, weights / weights.sum())

    def of(self, token: int) -> float:
        """Of one token; 0 where it cannot come."""
        if self.tokens is None:
            return float(self.probabilities[token])
        place = int(self.tokens.searchsorted(token))
        there = place < self.tokens.size and self.tokens[place] == token
        return float(self.probabilities[place]) if there else 0.0

    def over(self, vocab_size: int) -> NDArray[np.float64]:
        """Of every token, (V,)."""
        if self.tokens is None:
            return self.probabilities
        all_of_them = np.zeros(vocab_size)
        all_of_them[self.tokens] = self.probabilities
        return all_of_them

    def draw(self, uniform: float) -> int:
        """The token at which the cumulative probability passes ``uniform`` in [0, 1)."""
        index = index_at(self.probabilities, uniform)
        return index if self.tokens is None else int(self.tokens[index])


class SpeculativeSampler(Protocol):
    """A sampler that also judges guesses."""

    def __call__(self, logits: Logits) -> int:
        """Chooses a token as the plain sampler does, one call a step."""
        ...

    def check(self, logits: Logits, guess: int, drawn_from: Distribution) -> int:
        """Chooses a token where ``guess`` was drawn from a distribution: the guess, or another in its place."""
        ...


def make_speculative_sampler(config: GenerationConfig) -> SpeculativeSampler:
    """The sampler that a configuration asks for; without drawn guesses, its tokens are those of ``make_sampler``."""
    return (
        SpeculativeStochasticSampler(make_narrower(config), config.seed)
        if config.do_sample
        else SpeculativeGreedySampler()
    )


class SpeculativeGreedySampler(GreedySampler):
    """The likeliest token, whatever was guessed."""

    def check(self, logits: Logits, guess: int, drawn_from: Distribution) -> int:
        """See ``SpeculativeSampler``."""
        return self(logits)


class SpeculativeStochasticSampler(StochasticSampler):
    """Draws from what the warpers keep."""

    def check(self, logits: Logits, guess: int, drawn_from: Distribution) -> int:
        """See ``SpeculativeSampler``."""
        self._step += 1
        likeliest(logits, self._step)
        wanted = Distribution.of_logits(*self._narrow(logits))
        if next_uniform(self._random) * drawn_from.of(guess) < wanted.of(guess):
            return guess
        already = drawn_from.over(logits.size)
        rest = np.maximum(wanted.probabilities - (already if wanted.tokens is None else already[wanted.tokens]), 0.0)
        # Of two equal distributions, rounding may refuse a guess and leave nothing.
        return Distribution(wanted.tokens, rest if rest.any() else wanted.probabilities).draw(
            next_uniform(self._random)
        )


def index_at(weights: NDArray[np.float64], uniform: float) -> int:
    """The index at which the cumulative weights pass the share ``uniform`` of all; one without weight never."""
    mass_up_to = weights.cumsum()
    index = int(mass_up_to.searchsorted(uniform * mass_up_to[-1], side="right"))
    return min(index, int(mass_up_to.searchsorted(mass_up_to[-1])))
