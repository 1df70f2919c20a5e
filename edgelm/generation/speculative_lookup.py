"""Prompt lookup: what followed the latest tokens where they stood before is a guess of what follows them now.

Answers that quote, correct or rewrite a text copy long stretches of it, and a table of n-grams finds where from. The
longer the stretch that agrees already, the likelier it goes on. How likely is learned from every token, also from those
before which nothing was guessed, so there is no need to try where guesses do not pay.

Source: Saxena 2023, "Prompt Lookup Decoding"; https://github.com/apoorvumang/prompt-lookup-decoding.
"""

from __future__ import annotations

import numpy as np

from edgelm.config import MOST_GUESSES
from edgelm.generation.logits_processors import Ids
from edgelm.generation.speculative import NO_GUESSES, Guesses
from edgelm.generation.speculative_gain import Chance, best_length

LONGEST_NGRAM = 4
SHORTEST_NGRAM = 2
# Stretches that agree for longer are all taken alike.
_MOST_AGREEING = 12
# That a stretch goes on: measured with SmolLM2 135M over answers that copy and answers that do not.
_PRIORS = {2: 0.35, 3: 0.5, 4: 0.6, 5: 0.7, 6: 0.75, 7: 0.8, 8: 0.85, 9: 0.85, 10: 0.85, 11: 0.9, 12: 0.9}
_MEMORY = 16


class NGramGuesser:
    """Guesses from the prompt and the answer so far.

    Args:
        most: guesses at a time.
        longest: tokens that are looked for first; then fewer, down to two.
    """

    def __init__(self, most: int = MOST_GUESSES, longest: int = LONGEST_NGRAM) -> None:
        self._most = most
        self._longest = longest
        self._behind: dict[tuple[int, ...], int] = {}
        self._known: list[int] = []
        self._source: int | None = None  # where the token is expected that follows the known ones
        self._agreeing = 0
        self._chances = [Chance(_PRIORS.get(length, 0.0), _MEMORY) for length in range(_MOST_AGREEING + 1)]

    def guess(self, ids: Ids, most: int) -> Guesses:
        """See ``Guesser``."""
        for token in ids[len(self._known) :].tolist():
            self._append(token)
        self._look_up()
        if self._source is None:
            return NO_GUESSES
        chances = (self._chances[self._bounded(self._agreeing + place)].value for place in range(self._most))
        length = best_length(chances, min(most, self._most))
        behind = len(self._known) - self._source
        # A stretch that reaches up to the newest token goes on with its own beginning.
        return Guesses(ids[self._source + np.arange(length) % behind])

    def _append(self, token: int) -> None:
        if self._source is not None:
            right = self._known[self._source] == token
            self._chances[self._bounded(self._agreeing)].update(right)
            self._source = self._source + 1 if right else None
            self._agreeing = self._agreeing + 1 if right else 0
        end = len(self._known)
        for length in range(SHORTEST_NGRAM, self._longest + 1):
            if length <= end:
                self._behind[tuple(self._known[end - length :])] = end
        self._known.append(token)

    def _look_up(self) -> None:
        """Looks for a longer stretch than the one that is followed."""
        for length in range(self._longest, SHORTEST_NGRAM - 1, -1):
            if self._agreeing >= length:
                return
            found = self._behind.get(tuple(self._known[-length:]))
            if found is not None:
                self._source, self._agreeing = found, self._agreed(found)
                return

    def _agreed(self, source: int) -> int:
        """How many tokens before ``source`` are those at the end."""
        known, agreed = self._known, 0
        while agreed < min(source, _MOST_AGREEING) and known[source - 1 - agreed] == known[-1 - agreed]:
            agreed += 1
        return agreed

    @staticmethod
    def _bounded(agreeing: int) -> int:
        return min(agreeing, _MOST_AGREEING)
