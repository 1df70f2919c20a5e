"""The beam search of one source, and beam sampling: the semantics of transformers 4.57's ``_beam_search``.

A step takes continuations of all running sequences: the most probable ones, or, when sampling, as many draws without
replacement from what the warpers keep. Those that end and are among the first ``num_beams`` compete, their scores
divided by length ** length_penalty, for a place among the finished ones; the best of the others run on.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from edgelm.config import GenerationConfig
from edgelm.generation.beam_draw import draw_several
from edgelm.generation.beam_finished import Finished, Hypothesis
from edgelm.generation.beam_running import Choose, RunningBeams
from edgelm.generation.beam_scores import OUT, Scores, largest, penalized
from edgelm.generation.logits_processors import Ids, Logits
from edgelm.generation.requests import Task
from edgelm.generation.sampling import make_narrower, next_uniform


class SourceSearch(Protocol):
    """A search for the best answers to one source; it says which rows of the decoder it wants."""

    @property
    def done(self) -> bool:
        """Whether nothing better can be expected; it then wants no rows."""
        ...

    @property
    def last_tokens(self) -> Ids:
        """(rows,) the newest token of each of its rows."""
        ...

    def advance(self, logits: Logits) -> NDArray[np.int64]:
        """Takes logits, (rows, V) or at first (1, V), a step on; returns which of its rows each new one continues."""
        ...

    def hypotheses(self) -> list[Hypothesis]:
        """All answers found, best first."""
        ...


class BeamSource:
    """``num_beams`` running sequences and the ``num_beams`` best finished ones; see ``SourceSearch``."""

    def __init__(self, task: Task, config: GenerationConfig) -> None:
        self.done = False
        self._config = config
        self._ends = np.array(config.eos_token_id, np.int64)
        narrow = make_narrower(config) if config.do_sample else None
        self._running = RunningBeams(task, config.num_beams, narrow=narrow)
        self._finished = Finished(config.num_beams)
        self._choose: Choose = _Draws(config.seed) if config.do_sample else largest

    @property
    def last_tokens(self) -> Ids:
        """(num_beams,) the newest token of each running sequence."""
        return self._running.last_tokens

    def advance(self, logits: Logits) -> NDArray[np.int64]:
        """Takes logits, (num_beams, V) or (1, V) for all, a step on; returns which beam each new one continues."""
        running, beams = self._running, self._config.num_beams
        # So many that ``num_beams`` run on even if each beam could end with every end token.
        continued = running.continuations(
            running.log_probabilities(logits),
            max(2, 1 + self._ends.size) * beams,
            choose=self._choose,
            needed=not self._finished.some,
        )
        ended = np.isin(continued.tokens, self._ends) | running.nearly_full
        places = np.flatnonzero(ended[:beams] & (continued.scores[:beams] > OUT))
        scores = penalized(continued.scores[places], running.new_tokens + 1, self._config.length_penalty)
        self._finished.add(running.sequences(continued, places), scores)
        going_on: Scores = np.where(ended, OUT, continued.scores)
        best = largest(going_on, beams)
        parents = running.keep(continued, best, going_on[best])
        self.done = not self._goes_on()
        return parents

    def hypotheses(self) -> list[Hypothesis]:
        """The best finished sequences, best first."""
        return self._finished.hypotheses(self._running.prompt_length, self._config.eos_token_id)

    def _goes_on(self) -> bool:
        """Whether a running sequence may still come to replace a finished one, as far as can be guessed."""
        running, finished = self._running, self._finished
        if running.scores[0] == OUT:
            return False
        if not finished.full:
            return True
        early_stopping, penalty = self._config.early_stopping, self._config.length_penalty
        if early_stopping is True:
            return False
        at_most = running.limit - running.prompt_length
        length = at_most if early_stopping == "never" and penalty > 0 else running.new_tokens
        return bool(penalized(running.scores[:1], length, penalty)[0] > finished.worst)


class _Draws:
    """Draws continuations instead of taking the best, reproducible by the seed; see ``Choose``."""

    def __init__(self, seed: int | None) -> None:
        self._random = np.random.PCG64(seed)

    def __call__(self, scores: Scores, count: int) -> NDArray[np.intp]:
        return draw_several(scores, [next_uniform(self._random) for _ in range(count)])
