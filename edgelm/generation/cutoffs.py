"""Warpers that keep the tokens above a cut that the distribution itself sets: typical, epsilon, eta, top-n-sigma.

They follow transformers 4.57, as ``logits_processors`` does; top-n-sigma, which transformers does not have, follows
its paper. ``least`` of the likeliest tokens always stay (a beam needs more than one); of typical the most typical.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgelm.generation.distributions import entropy, log_softmax, softmax
from edgelm.generation.logits_processors import REMOVED, Ids, Logits


class TypicalP(NamedTuple):
    """Keeps the tokens whose surprise is nearest to the entropy, until they have the probability ``typical_p``.

    The likeliest token may be among those that go. Source: Meister et al. 2022, arXiv 2202.00666.
    """

    typical_p: float
    least: int = 1

    def __call__(self, ids: Ids, logits: Logits) -> Logits:
        """Returns a copy with the others at -inf."""
        log_probabilities = log_softmax(logits)
        shift = np.abs(-log_probabilities - entropy(log_probabilities))
        order = np.argsort(shift, kind="stable")
        mass_up_to = np.cumsum(softmax(logits[order]), dtype=np.float64).astype(np.float32)
        last = min(int(np.count_nonzero(mass_up_to < np.float32(self.typical_p))), order.size - 1)
        removed = shift > shift[order[last]]
        removed[order[: self.least]] = False
        return np.where(removed, REMOVED, logits)


class EpsilonCutoff(NamedTuple):
    """Keeps the tokens of at least the probability ``epsilon``. Source: Hewitt et al. 2022, arXiv 2210.15191."""

    epsilon: float
    least: int = 1

    def __call__(self, ids: Ids, logits: Logits) -> Logits:
        """Returns a copy with the others at -inf."""
        return _without_rare(logits, np.float32(self.epsilon), self.least)


class EtaCutoff(NamedTuple):
    """Keeps the tokens of at least a probability that falls with the entropy: min(ε, sqrt(ε) · exp(-entropy)).

    Source: Hewitt et al. 2022, arXiv 2210.15191.
    """

    epsilon: float
    least: int = 1

    def __call__(self, ids: Ids, logits: Logits) -> Logits:
        """Returns a copy with the others at -inf."""
        epsilon = np.float32(self.epsilon)
        eta = min(epsilon, np.sqrt(epsilon) * np.exp(-entropy(log_softmax(logits))))
        return _without_rare(logits, eta, self.least)


class TopNSigma(NamedTuple):
    """Keeps the logits at most ``n`` standard deviations below the largest; those at -inf do not count.

    Temperature does not change which stay. Source: Tang et al. 2024, arXiv 2411.07641.
    """

    n: float
    least: int = 1

    def __call__(self, ids: Ids, logits: Logits) -> Logits:
        """Returns a copy with the others at -inf."""
        allowed = logits[np.isfinite(logits)].astype(np.float64)
        floor = float(allowed.max()) - self.n * float(allowed.std())
        return _unless_likeliest(logits, logits < floor, self.least)


def _without_rare(logits: Logits, threshold: np.float32, least: int) -> Logits:
    return _unless_likeliest(logits, softmax(logits) < threshold, least)


def _unless_likeliest(logits: Logits, removed: NDArray[np.bool_], least: int) -> Logits:
    """Removes tokens, but none of the ``least`` likeliest nor what is tied with them."""
    rank = max(logits.size - least, 0)
    removed &= logits < np.partition(logits, rank)[rank]
    return np.where(removed, REMOVED, logits)
