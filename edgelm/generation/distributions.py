"""From logits to probabilities; sums are taken in float64, so that the order of the tokens is no matter."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float32]


def softmax(logits: Values) -> Values:
    """Probabilities of logits, (V,) float32, at least one of them finite."""
    with np.errstate(over="ignore", under="ignore"):
        weights = np.exp(logits - logits.max())
        probabilities: Values = weights / np.float32(weights.sum(dtype=np.float64))
    return probabilities


def log_softmax(logits: Values) -> Values:
    """Log probabilities of logits, (V,) float32, at least one of them finite; of -inf, -inf."""
    with np.errstate(over="ignore", under="ignore"):
        shifted = logits - logits.max()
        normalized: Values = shifted - np.float32(np.log(np.exp(shifted).sum(dtype=np.float64)))
    return normalized


def entropy(log_probabilities: Values) -> np.float32:
    """Of a distribution, (V,) float32, in nats; what has no probability adds nothing."""
    with np.errstate(under="ignore"):
        weights = np.exp(log_probabilities)
    some = weights > 0
    return np.float32(-(weights[some] * log_probabilities[some]).sum(dtype=np.float64))
