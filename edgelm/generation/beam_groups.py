"""Diverse beam search of one source, in groups: the semantics of transformers' ``group_beam_search``, up to 4.56.

Each group is a beam search of its own, but in every step it is taken on after the groups before it, and a token loses
``diversity_penalty`` for each of their beams that has just taken it. A group is done by the older rules of
transformers, which also look at the sequences that end; at the limit all that run have finished. The answers of all
groups compete. Source: Vijayakumar et al. 2016, arXiv 1610.02424 (Hamming diversity).

An answer ends with the end token that it found, where transformers writes the first of several.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edgelm.config import GenerationConfig
from edgelm.generation.beam_finished import Finished, Hypothesis
from edgelm.generation.beam_running import Continuations, RunningBeams
from edgelm.generation.beam_scores import OUT, Scores, largest, penalized
from edgelm.generation.logits_processors import Ids, Logits
from edgelm.generation.requests import Task

# The score of beams that do not count at first: as transformers', which has them follow where nothing else is allowed.
_IDLE = np.float32(-1e9)


class GroupedSource:
    """``num_beam_groups`` groups of beams; those that are done leave the decoder. See ``SourceSearch``."""

    def __init__(self, task: Task, config: GenerationConfig) -> None:
        self._groups = [_Group(task, config) for _ in range(config.num_beam_groups)]
        self._penalty = np.float32(config.diversity_penalty)
        # What a group that is done counts as taking.
        self._padding = config.eos_token_id[:1] if config.pad_token_id is None else (config.pad_token_id,)

    @property
    def done(self) -> bool:
        """Whether all groups are."""
        return all(group.done for group in self._groups)

    @property
    def last_tokens(self) -> Ids:
        """(rows,) the newest token of each sequence of the groups that go on."""
        return np.concatenate([group.running.last_tokens for group in self._groups if not group.done])

    def advance(self, logits: Logits) -> NDArray[np.int64]:
        """Takes the groups that go on a step on, with their rows' logits; returns which row each new one continues."""
        times_taken = np.zeros(logits.shape[1], np.int64)
        first_row = 0
        kept = [np.empty(0, np.int64)]
        for group in self._groups:
            beams = group.running.beams
            if group.done:
                taken = np.repeat(np.array(self._padding, np.int64), beams)
            else:
                own = logits if len(logits) == 1 else logits[first_row : first_row + beams]
                parents = group.advance(own, -self._penalty * times_taken.astype(np.float32))
                if not group.done:
                    kept.append(first_row + parents)
                first_row += beams
                taken = group.running.last_tokens
            np.add.at(times_taken, taken[taken < times_taken.size], 1)
        return np.concatenate(kept)

    def hypotheses(self) -> list[Hypothesis]:
        """The answers of all groups, best first."""
        found = [answer for group in self._groups for answer in group.hypotheses()]
        return sorted(found, key=lambda answer: -answer.score)


class _Group:
    """The beams of one group."""

    def __init__(self, task: Task, config: GenerationConfig) -> None:
        beams = config.num_beams // config.num_beam_groups
        self.done = False
        self.running = RunningBeams(task, beams, others=_IDLE)
        self._config = config
        self._ends = np.array(config.eos_token_id, np.int64)
        self._finished = Finished(beams)

    def advance(self, logits: Logits, bias: Scores) -> NDArray[np.int64]:
        """Takes the group a step on; ``bias``, (V,), is added to the log probabilities."""
        running, beams = self.running, self.running.beams
        continued = running.continuations(
            running.log_probabilities(logits, bias),
            max(2, 1 + self._ends.size) * beams,
            needed=not self._finished.some,
        )
        ended = np.isin(continued.tokens, self._ends)
        self._finish(continued, np.flatnonzero(ended[:beams] & (continued.scores[:beams] > OUT)))
        self.done = self._is_done(continued.scores[:1])
        going_on: Scores = np.where(ended, OUT, continued.scores)
        best = largest(going_on, beams)
        if not self.done and running.nearly_full:
            self._finish(continued, best[going_on[best] > OUT])
        self.done |= running.nearly_full or going_on[best[0]] == OUT
        return running.keep(continued, best, going_on[best])

    def hypotheses(self) -> list[Hypothesis]:
        """The finished sequences, best first."""
        return self._finished.hypotheses(self.running.prompt_length, self._config.eos_token_id)

    def _finish(self, continued: Continuations, places: NDArray[np.intp]) -> None:
        scores = penalized(continued.scores[places], self.running.new_tokens + 1, self._config.length_penalty)
        self._finished.add(self.running.sequences(continued, places), scores)

    def _is_done(self, best: Scores) -> bool:
        """Whether no continuation can be expected to replace a finished sequence; ``best``: (1,) their best score."""
        if not self._finished.full:
            return False
        early_stopping, penalty = self._config.early_stopping, self._config.length_penalty
        if early_stopping is True:
            return True
        running = self.running
        at_most = running.limit - running.prompt_length
        length = at_most if early_stopping == "never" and penalty > 0 else running.new_tokens + 1
        return bool(self._finished.worst >= penalized(best, length, penalty)[0])
