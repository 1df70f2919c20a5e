"""Draws among the continuations of all beams: several at a time, each at most once."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edgelm.generation.beam_scores import OUT, Scores
from edgelm.generation.sampling import draw


def draw_several(scores: Scores, uniforms: Sequence[float]) -> NDArray[np.intp]:
    """Indices drawn one after the other, each in proportion to exp(score) among those that are left.

    Args:
        scores: (N,) float32, finite or -inf.
        uniforms: numbers in [0, 1), one for each draw.

    Returns:
        (min(len(uniforms), N),) indices in the order of the draws; those at -inf come last, when no other is left.
    """
    places = np.flatnonzero(scores > OUT)
    left = scores[places]
    drawn = []
    for uniform in uniforms[: places.size]:
        index = draw(left, uniform)
        drawn.append(places[index])
        left[index] = OUT
    missing = len(uniforms) - len(drawn)
    return np.concatenate((np.array(drawn, np.intp), np.flatnonzero(scores == OUT)[:missing]))
