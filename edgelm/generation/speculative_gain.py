"""How many tokens to guess: what right guesses save against what computing all of them costs.

Nothing here looks at a clock: the same request must give the same tokens again, and with int8 weights one row and
several are rounded differently, so what is guessed may decide a near tie.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice

# Time of a run over M tokens as a multiple of one over a single token: 1 + 0.13 (M - 1). Measured with SmolLM2 135M in
# int8 on two cores without VNNI, behind 300 tokens: 1.1 for 2 tokens, 1.25 for 4, 1.9 for 8, 2.9 for 16; in fp32 1.1,
# 1.2, 1.6, 2.3. Larger models, and processors with VNNI, are nearer to the second row.
_COST_OF_A_TOKEN = 0.13
# What a step with guesses must save by this estimate: what finding and checking them takes comes on top.
_LEAST_GAIN = 1.03


def run_cost(tokens: int) -> float:
    """Time of a run over ``tokens``, in runs over one."""
    return 1 + _COST_OF_A_TOKEN * (tokens - 1)


def best_length(chances: Iterable[float], most: int, *, guess_cost: float = 0.0) -> int:
    """How many guesses give the most tokens for the time; 0: none pays.

    Args:
        chances: that the first guess is right; that the second is if the first was; and so on.
        most: guesses.
        guess_cost: time that making one guess takes, in runs of the model over one token.
    """
    best, most_speed = 0, _LEAST_GAIN
    tokens = right = 1.0
    for length, chance in enumerate(islice(chances, most), start=1):
        right *= chance
        tokens += right
        speed = tokens / (run_cost(1 + length) + length * guess_cost)
        if speed > most_speed:
            best, most_speed = length, speed
    return best


class Chance:
    """How often something happens, by its latest outcomes: an exponential average.

    Args:
        prior: the first estimate.
        memory: outcomes that count for most of the estimate.
    """

    __slots__ = ("_weight", "value")

    def __init__(self, prior: float, memory: int) -> None:
        self.value = prior
        self._weight = 1 / memory

    def update(self, happened: bool) -> None:
        """One more outcome."""
        self.value += self._weight * (happened - self.value)
