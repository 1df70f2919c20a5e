"""Logits processors that make tokens more or less likely without ruling them out.

They follow transformers 4.57, as ``logits_processors`` does; presence and frequency, which transformers does not have,
follow OpenAI's API, which counts the answer's tokens alone.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgelm.generation.logits_processors import REMOVED, Ids, Logits, RepetitionPenalty

_MOST = float(np.finfo(np.float32).max)


class SourcePenalty(NamedTuple):
    """Makes tokens of ``source``, (S,) int64, likelier: a penalty above 1 is a reward, against made-up words."""

    penalty: float
    source: Ids

    def __call__(self, ids: Ids, logits: Logits) -> Logits:
        """Returns a changed copy."""
        return RepetitionPenalty(1 / self.penalty)(self.source, logits)


class CountPenalty(NamedTuple):
    """Lowers the tokens of the answer: by ``presence`` once, by ``frequency`` each time that they have come.

    Negative values raise them. Source: OpenAI's API reference, frequency and presence penalties.
    """

    prompt_length: int
    presence: float
    frequency: float

    def __call__(self, ids: Ids, logits: Logits) -> Logits:
        """Returns a changed copy."""
        tokens, counts = np.unique(ids[self.prompt_length :], return_counts=True)
        lowered = logits.copy()
        lowered[tokens] -= (self.frequency * counts + self.presence).astype(np.float32)
        return lowered


class SequenceBias(NamedTuple):
    """Adds a bias to the last token of each sequence, where the others stand before it; to a single token, always.

    As in transformers, a sequence needs as many tokens before its end as it has itself.
    """

    biases: tuple[tuple[tuple[int, ...], float], ...]

    def __call__(self, ids: Ids, logits: Logits) -> Logits:
        """Returns a changed copy."""
        sums: dict[int, np.float32] = {}
        for sequence, bias in self.biases:
            if stands_before(sequence, ids):
                sums[sequence[-1]] = sums.get(sequence[-1], np.float32(0)) + np.float32(bias)
        biased = logits.copy()
        biased[list(sums)] += np.array(list(sums.values()), np.float32)
        return biased


class ExponentialDecay(NamedTuple):
    """Raises the end tokens, ever faster, once the sequence has more than ``start`` tokens."""

    start: int
    factor: float
    eos_token_id: tuple[int, ...]

    def __call__(self, ids: Ids, logits: Logits) -> Logits:
        """Returns a changed copy behind the start, before it the logits themselves."""
        beyond = len(ids) - self.start
        if beyond <= 0:
            return logits
        ends = np.array(self.eos_token_id, np.int64)
        ends = ends[logits[ends] != REMOVED]  # what may not come stays away
        raised = logits.copy()
        raised[ends] = _raised(logits[ends], self.factor, beyond)
        return raised


def stands_before(sequence: tuple[int, ...], ids: Ids) -> bool:
    """Whether ``ids`` end with all of the sequence but its last token."""
    if len(sequence) == 1:
        return True
    return len(sequence) <= len(ids) and tuple(ids[len(ids) - len(sequence) + 1 :].tolist()) == sequence[:-1]


def _raised(logits: Logits, factor: float, power: int) -> NDArray[np.float32]:
    with np.errstate(over="ignore"):
        growth = np.float32(min(float(np.float64(factor) ** power) - 1, _MOST))
        return np.asarray(np.minimum(logits + np.abs(logits) * growth, _MOST), np.float32)
