"""Logits processors against repetition: no n-gram of the text so far, or of the source, a second time.

They follow transformers 4.57, as ``logits_processors`` does.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from edgelm.generation.logits_processors import REMOVED, Ids, Logits


class NoRepeatNGram(NamedTuple):
    """Rules out every token that would make the last ``size`` tokens an n-gram that has occurred."""

    size: int

    def __call__(self, ids: Ids, logits: Logits) -> Logits:
        """Returns a masked copy."""
        return _without(logits, following(ids, ids, self.size))


class NoRepeatSourceNGram(NamedTuple):
    """Rules out every token that would make the last ``size`` tokens an n-gram of ``source``, (S,) int64."""

    size: int
    source: Ids

    def __call__(self, ids: Ids, logits: Logits) -> Logits:
        """Returns a masked copy."""
        return _without(logits, following(self.source, ids, self.size))


def following(text: Ids, ids: Ids, size: int) -> Ids:
    """The tokens that come in ``text`` behind the last ``size - 1`` tokens of ``ids``."""
    width = size - 1
    if width == 0:
        return text
    if len(ids) < width or len(text) < size:
        return text[:0]
    windows = np.lib.stride_tricks.sliding_window_view(text[:-1], width)
    found: Ids = text[width:][(windows == ids[len(ids) - width :]).all(axis=1)]
    return found


def _without(logits: Logits, tokens: Ids) -> Logits:
    masked = logits.copy()
    masked[tokens] = REMOVED
    return masked
