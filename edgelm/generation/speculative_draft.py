"""Guesses of a draft model: a smaller one with the same vocabulary goes ahead, token by token.

How far ahead follows from how many of its latest guesses were right, and from what its steps cost beside the model's.
Where none pays, it rests, and tries again after ever longer pauses.
"""

from __future__ import annotations

from itertools import repeat

import numpy as np

from edgelm.config import MOST_GUESSES, GenerationConfig
from edgelm.generation.logits_processors import REMOVED, Ids, Logits, LogitsProcessor
from edgelm.generation.sampling import make_narrower, next_uniform
from edgelm.generation.speculative import NO_GUESSES, Guesses, VerifyingDecoder
from edgelm.generation.speculative_gain import Chance, best_length
from edgelm.generation.speculative_sampling import Distribution

_PRIOR = 0.7
_MEMORY = 16
# Tokens of the answer between two attempts while guesses do not pay.
_FIRST_PAUSE, _LONGEST_PAUSE = 16, 256
_ATTEMPT = 2


class DraftGuesser:
    """Guesses for one answer.

    Args:
        decoder: the draft model's; its KV cache holds the first tokens of the prompt, or none.
        process: the processors of the answer, which the draft's logits go through as well.
        config: of the answer.
        vocab_size: width of the model's logits; the draft's may have another one by padding.
        cost: of a step of the draft, in steps of the model.
        most: guesses at a time.
    """

    def __init__(
        self,
        decoder: VerifyingDecoder,
        process: LogitsProcessor,
        config: GenerationConfig,
        *,
        vocab_size: int,
        cost: float,
        most: int = MOST_GUESSES,
    ) -> None:
        self._decoder = decoder
        self._process = process
        self._choose = _Choice(config)
        self._vocab_size = vocab_size
        self._cost = cost
        self._most = most
        self._chance = Chance(_PRIOR, _MEMORY)
        self._may_pay = best_length(repeat(1.0), most, guess_cost=cost) > 0
        self._pause, self._rests_until = _FIRST_PAUSE, 0
        self._agreed = decoder.length  # tokens that are known to be the answer's; behind them, the cache holds guesses
        self._guessed: list[int] = []

    def guess(self, ids: Ids, most: int) -> Guesses:
        """See ``Guesser``."""
        self.settle(ids)
        room = self._decoder.context_length - len(ids)  # a draft model's context window may be the smaller one
        length = self._length(len(ids), max(0, min(most, self._most, room)))
        if length < 1:
            return NO_GUESSES
        tokens = np.concatenate((ids, np.zeros(length, np.int64)))
        drawn_from: list[Distribution] = []
        logits = self._catch_up(ids)
        end = len(ids)
        while True:
            choice = self._choose(self._process(tokens[:end], _of_width(logits, self._vocab_size)))
            if choice is None:
                break
            tokens[end], distribution = choice
            end += 1
            if distribution is not None:
                drawn_from.append(distribution)
            if end == tokens.size:
                break
            logits = self._decoder.step(int(tokens[end - 1]))
        self._guessed = tokens[len(ids) : end].tolist()
        return Guesses(tokens[len(ids) : end], drawn_from or None)

    def settle(self, ids: Ids) -> None:
        """Sees how many of the last guesses were right, and has the cache hold no others; ``ids`` as for ``guess``."""
        right = 0
        for guessed, came in zip(self._guessed, ids[self._agreed :].tolist(), strict=False):
            self._chance.update(guessed == came)
            if guessed != came:
                break
            right += 1
        if self._guessed:
            self._pause = _FIRST_PAUSE if right else min(2 * self._pause, _LONGEST_PAUSE)
            self._rests_until = len(ids) + (0 if right == len(self._guessed) else self._pause)
        self._guessed = []
        self._agreed += right
        self._decoder.rewind(min(self._decoder.length, self._agreed))

    def _length(self, tokens: int, most: int) -> int:
        best = best_length(repeat(self._chance.value), most, guess_cost=self._cost)
        if best or not self._may_pay or tokens < self._rests_until:
            return best
        return min(_ATTEMPT, most)

    def _catch_up(self, ids: Ids) -> Logits:
        """Has the draft read what came; returns the logits behind it."""
        missing = ids[self._decoder.length :]
        self._agreed = len(ids)
        if 1 < missing.size <= self._most:
            logits: Logits = self._decoder.verify(missing)[-1]
            return logits
        return self._decoder.prefill(missing)


class _Choice:
    """Chooses guesses as the answer's tokens are chosen; with random numbers of its own."""

    def __init__(self, config: GenerationConfig) -> None:
        self._narrow = make_narrower(config) if config.do_sample else None
        self._random = np.random.PCG64(np.random.SeedSequence(config.seed).spawn(1)[0])

    def __call__(self, logits: Logits) -> tuple[int, Distribution | None] | None:
        """A guess, and what it was drawn from if it was; None where no token can come."""
        likeliest = int(logits.argmax())
        if not np.isfinite(logits[likeliest]):
            return None
        if self._narrow is None:
            return likeliest, None
        distribution = Distribution.of_logits(*self._narrow(logits))
        return distribution.draw(next_uniform(self._random)), distribution


def _of_width(logits: Logits, width: int) -> Logits:
    if logits.size >= width:
        return logits[:width]
    return np.concatenate((logits, np.full(width - logits.size, REMOVED)))
