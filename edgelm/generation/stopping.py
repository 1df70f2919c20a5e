"""When an answer is over: an end-of-sequence token, a caller's criterion, no room for more, or no time."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from enum import StrEnum
from typing import TypeAlias

from edgelm.generation.logits_processors import Ids, Logits

StoppingCriterion: TypeAlias = Callable[[Ids, Logits], bool]
"""``ids``: all tokens so far, the newest included, read-only; ``logits``: (V,) float32, those that the newest was
chosen from, after the processors and before the warpers."""


class FinishReason(StrEnum):
    """Why an answer ended: ``stop`` by a token or criterion, ``length`` at the limit of tokens, context or time."""

    STOP = "stop"
    LENGTH = "length"


def stop_at_tokens(tokens: Sequence[int]) -> StoppingCriterion:
    """A criterion that is met when the newest token is one of the given ones."""
    ends = frozenset(tokens)
    return lambda ids, logits: int(ids[-1]) in ends


def any_of(criteria: Sequence[StoppingCriterion]) -> StoppingCriterion:
    """A criterion that is met when one of the given ones is."""
    return lambda ids, logits: any(criterion(ids, logits) for criterion in criteria)


def deadline(max_time: float | None) -> Callable[[], bool]:
    """Whether so many seconds have passed since now; None: never."""
    if max_time is None:
        return lambda: False
    end = time.monotonic() + max_time
    return lambda: time.monotonic() >= end
