"""Logits processors about single tokens: which may not come, which must, and how early the end may.

They follow transformers 4.57, as ``logits_processors`` does.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from edgelm.generation.logits_processors import REMOVED, Ids, Logits
from edgelm.generation.penalties import stands_before


class MinLength(NamedTuple):
    """Rules the end-of-sequence tokens out until the sequence, prompt and answer, has its minimum of tokens."""

    min_length: int
    eos_token_id: tuple[int, ...]

    def __call__(self, ids: Ids, logits: Logits) -> Logits:
        """Returns a masked copy, or the logits themselves once the minimum is reached."""
        return logits if len(ids) >= self.min_length else without(logits, self.eos_token_id)


class NoBadWords:
    """Rules out the last token of each word, (a tuple of tokens), where the others stand before it.

    As in transformers, a word needs as many tokens before its end as it has itself. A step looks only at the words
    whose last token but one is the newest, so there may be many.
    """

    def __init__(self, words: Iterable[tuple[int, ...]]) -> None:
        self._by_newest: dict[int, list[tuple[int, ...]]] = {}
        single = set()
        for word in words:
            if len(word) == 1:
                single.add(word[0])
            else:
                self._by_newest.setdefault(word[-2], []).append(word)
        self._single = np.array(sorted(single), np.int64)

    def __call__(self, ids: Ids, logits: Logits) -> Logits:
        """Returns a masked copy."""
        masked = logits.copy()
        masked[self._single] = REMOVED
        begun = self._by_newest.get(int(ids[-1]), ()) if ids.size else ()
        masked[[word[-1] for word in begun if stands_before(word, ids)]] = REMOVED
        return masked


class SuppressTokens(NamedTuple):
    """Rules tokens out."""

    tokens: tuple[int, ...]

    def __call__(self, ids: Ids, logits: Logits) -> Logits:
        """Returns a masked copy."""
        return without(logits, self.tokens)


class SuppressTokensAtBegin(NamedTuple):
    """Rules tokens out where the sequence has ``begin`` tokens."""

    tokens: tuple[int, ...]
    begin: int

    def __call__(self, ids: Ids, logits: Logits) -> Logits:
        """Returns a masked copy there, elsewhere the logits themselves."""
        return without(logits, self.tokens) if len(ids) == self.begin else logits


class ForceTokens(NamedTuple):
    """Leaves only these tokens, equally likely, where the sequence has ``length`` tokens."""

    tokens: tuple[int, ...]
    length: int

    def __call__(self, ids: Ids, logits: Logits) -> Logits:
        """Returns new logits there, elsewhere those given."""
        if len(ids) != self.length:
            return logits
        forced = np.full_like(logits, REMOVED)
        forced[list(self.tokens)] = 0.0
        return forced


def without(logits: Logits, tokens: tuple[int, ...] | list[int]) -> Logits:
    """A copy with ``tokens`` at -inf."""
    masked = logits.copy()
    masked[list(tokens)] = REMOVED
    return masked
