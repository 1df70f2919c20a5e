"""Beam search over one or several sources at a time, with the semantics of transformers 4.57.

Each source keeps ``num_beams`` running sequences and the ``num_beams`` best finished ones. A step takes the most
probable continuations of all running sequences; those that end and are among the first ``num_beams`` compete, their
scores divided by length ** length_penalty, for a place among the finished ones; the best of the others run on.
Sources do not influence each other: one that is done leaves the batch.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgelm.config import GenerationConfig
from edgelm.errors import NumericError
from edgelm.generation.batch import BatchDecoder
from edgelm.generation.candidates import top_k_indices
from edgelm.generation.distributions import log_softmax
from edgelm.generation.logits_processors import Ids, Logits, LogitsProcessor
from edgelm.generation.loop import Step, raise_if_cancelled
from edgelm.generation.requests import Request, Task, check_request, check_requests
from edgelm.generation.sampling import likeliest
from edgelm.generation.stopping import FinishReason

Scores = NDArray[np.float32]

# Below the score of every sequence: of one that is out of the running, and of none at all.
_OUT = np.float32(-np.inf)
# A finished sequence is better than none, also where the length penalty takes its score out of float32's range.
_LOWEST = np.finfo(np.float32).min
_LEAST_DIVISOR = np.finfo(np.float32).tiny


@dataclass(frozen=True, slots=True)
class Hypothesis:
    """A finished answer, without the prompt, and its score: the sum of log probabilities after the length penalty."""

    tokens: tuple[int, ...]
    score: float
    finish_reason: FinishReason


def beam_search(
    decoder: BatchDecoder,
    requests: Sequence[Request],
    config: GenerationConfig,
    *,
    processors: Sequence[LogitsProcessor] = (),
    prefill_ended: Callable[[], None] | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> list[list[Hypothesis]]:
    """The ``num_return_sequences`` best answers to each request, best first; all is checked before the decoder runs.

    Args:
        decoder: without rows; it comes to have ``num_beams`` for each request.
        requests: prompts of any lengths.
        config: ``num_beams``, ``length_penalty``, ``early_stopping``, and the settings of any generation.
        processors: run on the log probabilities, after the built-in ones.
        prefill_ended: called once the prompts are computed.
        cancelled: asked before each run of the decoder.

    Raises:
        ConfigError, PromptError, ContextLengthError: see ``check_requests``.
        NumericError: logits hold NaN or infinity, or no token is allowed.
        CancelledError: ``cancelled`` returned true.
    """
    tasks = check_requests(requests, config, decoder, processors=processors)
    searches = [_Search(task, config) for task in tasks]
    asked = cancelled or (lambda: False)
    raise_if_cancelled(asked)
    logits = decoder.prefill([task.prompt for task in tasks])
    if prefill_ended is not None:
        prefill_ended()
    # So far there is one row for each source: its beams are still the same.
    first = [(search, logits[row : row + 1], row) for row, search in enumerate(searches)]
    running = _advance(first, decoder)
    while running:
        raise_if_cancelled(asked)
        logits = decoder.step(np.concatenate([search.last_tokens for search in running]))
        beams = config.num_beams
        running = _advance(
            [(search, logits[n * beams : (n + 1) * beams], n * beams) for n, search in enumerate(running)], decoder
        )
    return [search.answers() for search in searches]


def beam_steps(
    decoder: BatchDecoder,
    request: Request,
    config: GenerationConfig,
    *,
    processors: Sequence[LogitsProcessor] = (),
    prefill_ended: Callable[[], None] | None = None,
) -> Generator[Step, None, None]:
    """The best answer to one request, token by token: all of them come at the end of the search.

    ``processors``, ``prefill_ended``: as in ``beam_search``.

    Raises:
        As ``beam_search``; what is wrong with the request at once, the rest while iterating.
    """
    check_request(request, config, decoder)
    return _best_steps(
        lambda: beam_search(decoder, [request], config, processors=processors, prefill_ended=prefill_ended)
    )


def _best_steps(search: Callable[[], list[list[Hypothesis]]]) -> Generator[Step, None, None]:
    best = search()[0][0]
    for token in best.tokens[:-1]:
        yield Step(token)
    yield Step(best.tokens[-1], best.finish_reason)


def _advance(parts: list[tuple[_Search, Logits, int]], decoder: BatchDecoder) -> list[_Search]:
    """Takes each search a step on, given its logits and first row; the decoder keeps the rows of those not done."""
    running: list[_Search] = []
    rows: list[NDArray[np.int64]] = []
    for search, logits, first_row in parts:
        parents = search.advance(logits)
        if not search.done:
            running.append(search)
            rows.append(first_row + (parents if len(logits) > 1 else np.zeros_like(parents)))
    if running:
        decoder.select(np.concatenate(rows))
    return running


class _Search:
    """The beams of one source."""

    def __init__(self, task: Task, config: GenerationConfig) -> None:
        beams = config.num_beams
        self.done = False
        self._config = config
        self._process = task.process
        self._prompt_length = self._length = task.prompt.size
        self._limit = task.limit
        self._ends = np.array(config.eos_token_id, np.int64)
        self._ids = np.tile(task.prompt, (beams, 1))
        # Only the first beam counts at first, so that the beams do not all take the same tokens.
        self._scores: Scores = np.where(np.arange(beams) == 0, np.float32(0.0), _OUT)
        self._finished: list[Ids | None] = [None] * beams
        self._finished_scores: Scores = np.full(beams, _OUT)

    @property
    def last_tokens(self) -> Ids:
        """(num_beams,) the newest token of each running sequence."""
        return self._ids[:, -1]

    def advance(self, logits: Logits) -> NDArray[np.int64]:
        """Takes logits, (num_beams, V) or (1, V) for all, a step on; returns which beam each new one continues."""
        beams = len(self._scores)
        scores, parents, tokens = self._continuations(self._log_probabilities(logits))
        ended = np.isin(tokens, self._ends) | (self._length + 1 >= self._limit)
        self._finish(scores, parents, tokens, np.flatnonzero(ended[:beams] & (scores[:beams] > _OUT)))
        running: Scores = np.where(ended, _OUT, scores)
        chosen = _largest(running, beams)
        self._scores = running[chosen]
        self._ids = np.concatenate((self._ids[parents[chosen]], tokens[chosen, None]), axis=1)
        self._ids.flags.writeable = False
        self._length += 1
        self.done = not self._goes_on()
        return parents[chosen]

    def answers(self) -> list[Hypothesis]:
        """The best finished sequences, best first; where the settings allow fewer, empty ones at the end."""
        found = []
        for ids, score in zip(self._finished, self._finished_scores, strict=True):
            tokens = () if ids is None else tuple(ids[self._prompt_length :].tolist())
            reason = FinishReason.STOP if tokens and tokens[-1] in self._ends else FinishReason.LENGTH
            found.append(Hypothesis(tokens, float(score), reason))
        return found[: self._config.num_return_sequences]

    @property
    def _new_tokens(self) -> int:
        return self._length - self._prompt_length

    def _log_probabilities(self, logits: Logits) -> Scores:
        """(num_beams, V), processed; of one row, which all beams share at first, as often as there are beams.

        Beams that are out of the running stay out, and are not looked at.
        """
        processed: Scores = np.full(logits.shape, _OUT, np.float32)
        for place in np.flatnonzero(self._scores[: len(logits)] > _OUT):
            likeliest(logits[place], self._new_tokens + 1)
            processed[place] = self._process(self._ids[place], log_softmax(logits[place]))
        return np.broadcast_to(processed, (len(self._scores), processed.shape[1]))

    def _continuations(self, log_probabilities: Scores) -> tuple[Scores, NDArray[np.int64], NDArray[np.int64]]:
        """The best continuations of all beams, best first: (scores, beams they continue, tokens).

        They are so many that ``num_beams`` run on even if each beam could end with every end token.
        """
        beams, vocab_size = log_probabilities.shape
        accumulated = (log_probabilities + self._scores[:, None]).ravel()
        if accumulated.max() == _OUT and all(ids is None for ids in self._finished):
            raise NumericError(f"step {self._new_tokens + 1}: no token is allowed in any beam")
        best = _largest(accumulated, max(2, 1 + self._ends.size) * beams)
        parents, tokens = np.divmod(best, vocab_size)
        return accumulated[best], parents, tokens

    def _finish(
        self, scores: Scores, parents: NDArray[np.int64], tokens: NDArray[np.int64], places: NDArray[np.intp]
    ) -> None:
        """Lets the continuations at ``places``, which end, compete with those that have finished."""
        ended = [np.append(self._ids[parents[place]], tokens[place]) for place in places]
        penalized = self._penalized(scores[places], self._new_tokens + 1)
        merged = np.concatenate((self._finished_scores, penalized))
        best = _largest(merged, len(self._scores))
        everyone = [*self._finished, *ended]
        self._finished = [everyone[index] for index in best]
        self._finished_scores = merged[best]

    def _goes_on(self) -> bool:
        """Whether a running sequence may still come to replace a finished one, as far as can be guessed."""
        if self._scores[0] == _OUT:
            return False
        if any(ids is None for ids in self._finished):
            return True
        early_stopping, penalty = self._config.early_stopping, self._config.length_penalty
        if early_stopping is True:
            return False
        at_most = self._limit - self._prompt_length
        length = at_most if early_stopping == "never" and penalty > 0 else self._new_tokens
        return bool(self._penalized(self._scores[:1], length)[0] > self._finished_scores.min())

    def _penalized(self, scores: Scores, length: int) -> Scores:
        """Scores by which sequences of a length compete."""
        with np.errstate(over="ignore", under="ignore"):
            divisor = np.maximum(np.float32(np.float64(length) ** self._config.length_penalty), _LEAST_DIVISOR)
            penalized: Scores = np.maximum(scores / divisor, _LOWEST)
        return penalized


def _largest(values: Scores, count: int) -> NDArray[np.intp]:
    """Indices of the ``count`` largest values, or of all, largest first; of equals, the first."""
    near = top_k_indices(values, count)
    if near.size < count:  # the others are -inf
        near = np.arange(values.size)
    order: NDArray[np.intp] = near[np.argsort(-values[near], kind="stable")[:count]]
    return order
