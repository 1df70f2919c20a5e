"""The generation loop over a batch: each row has its own processors and sampler, and leaves when its answer ends.

logits = prefill(prompts)
repeat:  for every row: process the logits → sample a token → yield it → stop here?
         select the rows that go on;  logits = step(their tokens)
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass

import numpy as np

from edgelm.config import GenerationConfig
from edgelm.generation.batch import BatchDecoder
from edgelm.generation.history import TokenHistory
from edgelm.generation.hooks import NO_HOOKS, Hooks
from edgelm.generation.logits_processors import Logits, LogitsProcessor
from edgelm.generation.logprobs import make_scorer
from edgelm.generation.loop import Step, finish_reason, raise_if_cancelled
from edgelm.generation.requests import Request, Task, check_requests
from edgelm.generation.sampling import Sampler, make_sampler
from edgelm.generation.stopping import StoppingCriterion, any_of, deadline, stop_at_tokens

Over = Callable[[int, int], bool]
"""Told (row, token) as tokens are chosen; whether that row's answer is over, for a reason the tokens do not show."""


@dataclass(eq=False)
class _Row:
    number: int
    history: TokenHistory
    process: LogitsProcessor
    is_complete: StoppingCriterion
    sample: Sampler
    token: int = -1


class _Judge:
    """Chooses the tokens of rows, and says which end them."""

    def __init__(self, config: GenerationConfig, hooks: Hooks, over: Over) -> None:
        self._over = over
        self._score = make_scorer(config)
        self._should_stop = any_of([stop_at_tokens(config.eos_token_id), *hooks.stopping_criteria])

    def choose(self, row: _Row, given: Logits, is_late: Callable[[], bool]) -> Step:
        logits = row.process(row.history.ids, given if self._score is None else given.copy())
        row.token = row.sample(logits)
        row.history.append(row.token)
        over = self._over(row.number, row.token)  # asked of each token
        stopped = over or self._should_stop(row.history.ids, logits) or row.is_complete(row.history.ids, logits)
        reason = finish_reason(row.history, stopped, is_late)
        return Step(row.token, reason, self._score and self._score(given, row.token))


def generate_batch_ids(
    decoder: BatchDecoder,
    requests: Sequence[Request],
    config: GenerationConfig,
    *,
    hooks: Hooks = NO_HOOKS,
    over: Over | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> Generator[tuple[int, Step], None, None]:
    """Continues prompts side by side, and yields (row, step) as tokens are chosen; all is checked before it runs.

    There is a row for every request; when sampling, ``num_return_sequences`` in a row for each. A row's tokens are
    those of ``generate_ids`` for its prompt alone, as far as the decoder's arithmetic is the same; where a ``seed`` is
    given, the n-th sample of a prompt has ``seed + n``.

    Args:
        decoder: without rows.
        requests: prompts of any lengths.
        config: greedy or sampling; for beams see ``beam_search``.
        hooks: the caller's own processors and stopping criteria, which see one row at a time.
        over: ends a row with ``stop``.
        cancelled: asked before each run of the decoder.

    Raises:
        ConfigError, PromptError, ContextLengthError: see ``check_requests``.
        NumericError: while iterating; logits hold NaN or infinity or allow no token.
        CancelledError: while iterating; ``cancelled`` returned true.
    """
    tasks = check_requests(requests, config, decoder, processors=hooks.logits_processor)
    judge = _Judge(config, hooks, over or (lambda row, token: False))
    return _loop(decoder, tasks, config, judge, cancelled or (lambda: False))


def _loop(
    decoder: BatchDecoder, tasks: list[Task], config: GenerationConfig, judge: _Judge, cancelled: Callable[[], bool]
) -> Generator[tuple[int, Step], None, None]:
    copies = config.num_return_sequences if config.do_sample else 1
    rows = [_row(tasks[number // copies], number, number % copies, config) for number in range(len(tasks) * copies)]
    is_late = deadline(config.max_time)
    raise_if_cancelled(cancelled)
    logits = decoder.prefill([task.prompt for task in tasks])
    places = np.arange(len(rows)) // copies  # which row of the logits is whose
    while True:
        going_on = []
        for row, place in zip(rows, places, strict=True):
            step = judge.choose(row, logits[place], is_late)
            if step.finish_reason is None:
                going_on.append((row, place))
            yield row.number, step
        if not going_on:
            return
        raise_if_cancelled(cancelled)
        rows = [row for row, _ in going_on]
        decoder.select(np.array([place for _, place in going_on], np.int64))
        logits = decoder.step(np.array([row.token for row in rows], np.int64))
        places = np.arange(len(rows))


def _row(task: Task, number: int, copy: int, config: GenerationConfig) -> _Row:
    history = TokenHistory(task.prompt, task.limit - task.prompt.size)
    is_complete = any_of(task.stopping_criteria)
    return _Row(number, history, task.process, is_complete, make_sampler(config, copy=copy))
