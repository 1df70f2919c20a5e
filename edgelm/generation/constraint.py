"""Answers that are held to a form: an automaton says which tokens may come, and where the answer may and must end.

It follows the tokens so far, so that plain loops, samples, beams and guesses that are taken back need know nothing of
it. Knows nothing about grammars and text.
"""

from __future__ import annotations

from typing import Protocol, Self

import numpy as np
from numpy.typing import NDArray

from edgelm.config import GenerationConfig
from edgelm.errors import ConfigError, NumericError
from edgelm.generation.logits_processors import NO_IDS, REMOVED, Ids, Logits

_DEFAULTS = GenerationConfig()


class Constraint(Protocol):
    """An automaton over tokens, at some place in an answer."""

    @property
    def may_end(self) -> bool:
        """Whether the answer is complete as it is."""
        ...

    def allowed(self) -> NDArray[np.bool_]:
        """(N,) whether each token may come next, none where the answer is over; N need not be the logits' width."""
        ...

    def advance(self, token: int) -> bool:
        """Takes the next token; returns False, and stays as it is, where that may not come."""
        ...

    def rewind(self, count: int) -> None:
        """Takes back the last ``count`` tokens."""
        ...

    def copy(self) -> Self:
        """Another one in the same state; the two go on by themselves."""
        ...


class ConstraintProcessor:
    """Rules out every token that would break a constraint; belongs behind all other processors.

    One is for one request: its samples and beams, whose histories it tells apart. ``for_request`` makes one.

    Args:
        constraint: at the start of an answer; it is copied.
        prompt_length: tokens before the answer; a first token that the configuration forces is not the answer's either.
        config: of the request.
        vocab_size: width of the logits.

    Raises:
        ConfigError: a beam search has no token that could end an answer.
    """

    def __init__(
        self,
        constraint: Constraint,
        *,
        prompt_length: int = 0,
        config: GenerationConfig = _DEFAULTS,
        vocab_size: int = 0,
    ) -> None:
        self._constraint = constraint
        self._start = prompt_length + (config.forced_bos_token_id is not None and prompt_length == 1)
        least = prompt_length + config.min_new_tokens if config.min_new_tokens else config.min_length
        self._least = max(self._start, least)
        self._ends = [token for token in config.eos_token_id if token < vocab_size]
        self._searches = config.num_beams > 1
        if self._searches and not self._ends:
            raise ConfigError("beams need a token that ends an answer (eos_token_id) to be held to its form")
        rows = max(config.num_beams, config.num_return_sequences)
        # A step's beams continue those of the step before, which must still be there.
        self._most_places = 1 if rows == 1 else 2 * rows
        self._places = [_Place(constraint.copy())]

    def for_request(self, prompt_length: int, config: GenerationConfig, vocab_size: int) -> Self:
        """One for a request; for arguments and errors see the class."""
        return type(self)(self._constraint, prompt_length=prompt_length, config=config, vocab_size=vocab_size)

    def __call__(self, ids: Ids, logits: Logits) -> Logits:
        """Returns a masked copy; the logits themselves where the answer has not begun.

        Raises:
            NumericError: nothing that may come is left.
        """
        if ids.size < self._start:
            return logits
        place = self._place(ids[self._start :])
        mask = np.zeros(logits.size, np.bool_)
        known = min(mask.size, place.allowed.size)
        mask[:known] = place.allowed[:known]
        for end in self._ends:
            mask[end] = place.may_end or (mask[end] and place.ends_with(end))
        masked = np.where(mask, logits, REMOVED)
        if not self._searches and masked.max() == REMOVED:
            raise _nothing_left(ids.size - self._start + 1, int(mask.sum()))
        return masked

    def is_complete(self, ids: Ids, logits: Logits) -> bool:
        """Whether the answer must end here, as a stopping criterion; not before it has its minimum of tokens."""
        return ids.size >= self._least and self._place(ids[self._start :]).must_end

    def _place(self, answer: Ids) -> _Place:
        """The constraint behind the tokens of an answer."""
        place = max(self._places, key=lambda place: place.common(answer))
        common = place.common(answer)
        if common == place.tokens.size == answer.size:
            return place
        self._places.remove(place)
        if common < place.tokens.size and self._most_places > 1:
            self._places = [*self._places, place][1 - self._most_places :]
            place = place.copy()
        place.follow(answer, common)
        self._places.append(place)  # the newest is last
        return place


class _Place:
    """A constraint, and the tokens that it has seen."""

    def __init__(self, constraint: Constraint, tokens: Ids = NO_IDS) -> None:
        self.tokens = tokens
        self._constraint = constraint
        self._allowed: NDArray[np.bool_] | None = None

    @property
    def allowed(self) -> NDArray[np.bool_]:
        if self._allowed is None:
            self._allowed = self._constraint.allowed()
        return self._allowed

    @property
    def may_end(self) -> bool:
        return self._constraint.may_end

    @property
    def must_end(self) -> bool:
        return self.may_end and not self.allowed.any()

    def common(self, answer: Ids) -> int:
        """Tokens at the beginning that both have."""
        length = min(answer.size, self.tokens.size)
        different = np.flatnonzero(answer[:length] != self.tokens[:length])
        return int(different[0]) if different.size else length

    def follow(self, answer: Ids, common: int) -> None:
        """Goes to the end of ``answer``, of whose tokens it has ``common``.

        Raises:
            NumericError: the constraint does not allow one of the others.
        """
        self._constraint.rewind(self.tokens.size - common)
        self._allowed = None
        self.tokens = answer[:common].copy()
        for token in answer[common:]:
            if not self._constraint.advance(int(token)):
                raise NumericError(f"token {token} of the answer is not one that its form allows")
            self.tokens = np.append(self.tokens, token)

    def ends_with(self, token: int) -> bool:
        """Whether the answer may end with a token that the constraint itself asks for."""
        then = self._constraint.copy()
        return then.advance(token) and then.may_end

    def copy(self) -> _Place:
        return _Place(self._constraint.copy(), self.tokens)


def _nothing_left(step: int, allowed: int) -> NumericError:
    if not allowed:
        return NumericError(f"step {step}: none of the model's tokens goes on with an answer of this form")
    return NumericError(
        f"step {step}: the answer's form allows {allowed} tokens here, but other settings rule them out "
        "(min_new_tokens, bad_words_ids, no_repeat_ngram_size, …)"
    )
