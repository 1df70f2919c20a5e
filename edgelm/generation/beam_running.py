"""The running sequences of a beam search, and what they may be continued with."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from edgelm.errors import NumericError
from edgelm.generation.beam_scores import OUT, Scores, largest
from edgelm.generation.distributions import log_softmax
from edgelm.generation.logits_processors import Ids, Logits
from edgelm.generation.requests import Task
from edgelm.generation.sampling import Narrower, likeliest

Choose: TypeAlias = Callable[[Scores, int], NDArray[np.intp]]
"""Of scores, (N,), the indices of so many, or of all, in the order in which they count."""


class Continuations(NamedTuple):
    """Beams continued by a token each: (K,) accumulated scores, which beams they continue, tokens."""

    scores: Scores
    parents: NDArray[np.int64]
    tokens: NDArray[np.int64]


class RunningBeams:
    """``beams`` sequences that continue one prompt, best first.

    At first they are all the prompt, and only the first one counts, so that they do not all take the same tokens.

    Args:
        task: the prompt and its processors.
        beams: how many.
        others: the score of those that do not count at first; -inf: what they are continued with never counts.
        narrow: run on the log probabilities after the task's processors; what it leaves out does not go on.

    Attributes:
        beams: how many.
        ids: (beams, tokens) read-only.
        scores: (beams,) sums of processed log probabilities; -inf where a sequence is out of the running.
        limit: tokens that a sequence may have.
        prompt_length: how many of them are the prompt's.
    """

    def __init__(self, task: Task, beams: int, *, others: np.float32 = OUT, narrow: Narrower | None = None) -> None:
        self.beams = beams
        self.ids: Ids = np.tile(task.prompt, (beams, 1))
        self.scores: Scores = np.where(np.arange(beams) == 0, np.float32(0.0), others)
        self.limit = task.limit
        self.prompt_length = task.prompt.size
        self._process = task.process
        self._narrow = narrow

    @property
    def last_tokens(self) -> Ids:
        """(beams,) the newest token of each."""
        return self.ids[:, -1]

    @property
    def new_tokens(self) -> int:
        """Tokens of each that are not the prompt's."""
        return int(self.ids.shape[1]) - self.prompt_length

    @property
    def nearly_full(self) -> bool:
        """Whether each has room for one token only."""
        return int(self.ids.shape[1]) + 1 >= self.limit

    def log_probabilities(self, logits: Logits, bias: Scores | None = None) -> Scores:
        """(beams, V), processed, from logits (beams, V), or (1, V) for all of them, which only the first step has.

        Sequences that are out of the running stay out, and are not looked at. ``bias``, (V,), is added before the
        processors run.
        """
        processed: Scores = np.full(logits.shape, OUT, np.float32)
        for place in np.flatnonzero(self.scores[: len(logits)] > OUT):
            likeliest(logits[place], self.new_tokens + 1)
            values = log_softmax(logits[place])
            values = self._process(self.ids[place], values if bias is None else values + bias)
            if self._narrow is None:
                processed[place] = values
            else:
                tokens, kept = self._narrow(values)
                processed[place, slice(None) if tokens is None else tokens] = kept
        return np.broadcast_to(processed, (self.beams, processed.shape[1]))

    def continuations(
        self, log_probabilities: Scores, count: int, *, choose: Choose = largest, needed: bool = True
    ) -> Continuations:
        """``count`` of all continuations, as ``choose`` takes them.

        Raises:
            NumericError: one that counts is ``needed``, but no token is allowed in any of them.
        """
        accumulated = (log_probabilities + self.scores[:, None]).ravel()
        if needed and accumulated.max() == OUT:
            raise NumericError(f"step {self.new_tokens + 1}: no token is allowed in any beam")
        chosen = choose(accumulated, count)
        parents, tokens = np.divmod(chosen, log_probabilities.shape[1])
        return Continuations(accumulated[chosen], parents, tokens)

    def sequences(self, continued: Continuations, places: NDArray[np.intp]) -> list[Ids]:
        """The continuations at some places, each as the whole sequence."""
        return [np.append(self.ids[continued.parents[place]], continued.tokens[place]) for place in places]

    def keep(self, continued: Continuations, places: NDArray[np.intp], scores: Scores) -> NDArray[np.int64]:
        """Goes on with the continuations at ``places``, with these scores; returns which sequence each continues."""
        parents = continued.parents[places]
        self.ids = np.concatenate((self.ids[parents], continued.tokens[places, None]), axis=1)
        self.ids.flags.writeable = False
        self.scores = scores
        return parents
