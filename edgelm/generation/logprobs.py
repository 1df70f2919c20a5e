"""How likely the model found the tokens it chose, and which others were likeliest: before penalties and cuts."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from edgelm.config import GenerationConfig
from edgelm.generation.candidates import top_k_indices
from edgelm.generation.distributions import log_softmax
from edgelm.generation.logits_processors import Logits


class StepLogprobs(NamedTuple):
    """The log probability of a step's token, and (token, log probability) of the likeliest, likeliest first."""

    logprob: float
    top: tuple[tuple[int, float], ...] = ()


Scorer = Callable[[Logits, int], StepLogprobs]
"""Of a step's logits, as the model gave them, and the token that was chosen."""


def make_scorer(config: GenerationConfig) -> Scorer | None:
    """What a configuration wants to know: nothing, or ``logprobs`` and ``top_logprobs``."""
    if not config.logprobs:
        return None
    return lambda logits, token: _score(logits, token, config.top_logprobs)


def _score(logits: Logits, token: int, count: int) -> StepLogprobs:
    log_probabilities = log_softmax(logits)
    top: tuple[tuple[int, float], ...] = ()
    if count:
        near = top_k_indices(log_probabilities, count)
        best = near[np.argsort(-log_probabilities[near], kind="stable")[:count]]
        top = tuple((int(index), float(log_probabilities[index])) for index in best)
    return StepLogprobs(float(log_probabilities[token]), top)
