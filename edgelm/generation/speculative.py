"""Speculative decoding: a guesser says what may come, one run of the model checks all of it, and what is right counts.

rows = prefill(prompt)
repeat:  for every row: process its logits → choose a token → yield it → stop here?  go on while the guess was right
         guesses = guess(tokens so far);  rows = verify(newest token and guesses)

Each token is chosen as in the plain loop, by the same processors and from the same tokens before it; so greedy answers
are those of the plain loop, as far as the model's arithmetic is the same for one row and for several.
Source: Leviathan et al. 2023, "Fast Inference from Transformers via Speculative Decoding".
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from edgelm.config import GenerationConfig
from edgelm.generation.history import TokenHistory
from edgelm.generation.hooks import NO_HOOKS, Hooks
from edgelm.generation.logits_processors import NO_IDS, Ids, Logits
from edgelm.generation.logprobs import make_scorer
from edgelm.generation.loop import Decoder, Step, check_cached, finish_reason, raise_if_cancelled
from edgelm.generation.requests import Request, Task, check_request
from edgelm.generation.speculative_sampling import Distribution, make_speculative_sampler
from edgelm.generation.stopping import any_of, deadline, stop_at_tokens


class Guesses(NamedTuple):
    """What may come next, in order.

    Attributes:
        tokens: (K,) int64, perhaps none.
        drawn_from: (K) what each was drawn from; None: they were not drawn but are the guesser's only choice.
    """

    tokens: Ids
    drawn_from: Sequence[Distribution] | None = None


NO_GUESSES = Guesses(NO_IDS)


class Guesser(Protocol):
    """Guesses what comes next in one answer."""

    def guess(self, ids: Ids, most: int) -> Guesses:
        """Guesses at most ``most`` tokens behind ``ids``, (T,), all so far; these go on from those of the last call.

        What has become of the last guesses, it sees from ``ids``.
        """
        ...


class VerifyingDecoder(Decoder, Protocol):
    """A decoder that takes several tokens at a time, and forgets those that were wrong."""

    def verify(self, ids: Ids) -> NDArray[np.float32]:
        """Appends a few tokens; returns the logits of each, (S, V), as ``step`` does."""
        ...

    def rewind(self, length: int) -> None:
        """Forgets all but the first ``length`` tokens."""
        ...


def generate_guessed_ids(
    decoder: VerifyingDecoder,
    prompt_ids: Sequence[int] | NDArray[np.int64],
    config: GenerationConfig,
    guesser: Guesser,
    *,
    cached: int = 0,
    hooks: Hooks = NO_HOOKS,
    counted: Callable[[int, int], None] | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> Generator[Step, None, None]:
    """Continues a prompt as ``loop.generate_ids`` does, which see for arguments and errors, with fewer runs.

    When sampling, tokens have the distribution that they have there; where the guesser draws nothing, they are the very
    tokens of the same seed.

    Args:
        decoder: see there.
        prompt_ids: see there.
        config: see there.
        guesser: for this answer alone.
        cached: see there.
        hooks: see there.
        counted: told (tokens guessed, guesses found right) as they come.
        cancelled: see there.
    """
    task = check_request(Request(prompt=prompt_ids), config, decoder, processors=hooks.logits_processor)
    check_cached(cached, task.prompt.size, decoder.length)
    answer = _Answer(task, config, hooks)
    return _loop(
        decoder,
        guesser,
        answer,
        cached=cached,
        counted=counted or (lambda guessed, right: None),
        cancelled=cancelled or (lambda: False),
    )


class _Answer:
    """The tokens so far, and how the next one is chosen."""

    def __init__(self, task: Task, config: GenerationConfig, hooks: Hooks) -> None:
        self.history = TokenHistory(task.prompt, task.limit - task.prompt.size)
        self.max_time = config.max_time
        self._process = task.process
        self._sample = make_speculative_sampler(config)
        self._score = make_scorer(config)
        ends = stop_at_tokens(config.eos_token_id)
        self._should_stop = any_of([ends, *task.stopping_criteria, *hooks.stopping_criteria])

    def choose(self, given: Logits, guesses: Guesses, place: int, is_late: Callable[[], bool]) -> Step:
        """The next token, from the logits behind ``place`` right guesses."""
        history = self.history
        logits = self._process(history.ids, given if self._score is None else given.copy())
        if guesses.drawn_from is None or place == len(guesses.tokens):
            token = self._sample(logits)
        else:
            token = self._sample.check(logits, int(guesses.tokens[place]), guesses.drawn_from[place])
        history.append(token)
        reason = finish_reason(history, self._should_stop(history.ids, logits), is_late)
        return Step(token, reason, self._score and self._score(given, token))


def _loop(
    decoder: VerifyingDecoder,
    guesser: Guesser,
    answer: _Answer,
    *,
    cached: int,
    counted: Callable[[int, int], None],
    cancelled: Callable[[], bool],
) -> Generator[Step, None, None]:
    history, guesses = answer.history, NO_GUESSES
    is_late = deadline(answer.max_time)
    raise_if_cancelled(cancelled)
    try:
        rows = decoder.prefill(history.ids[cached:])[None]
        while True:
            for place, given in enumerate(rows):
                step = answer.choose(given, guesses, place, is_late)
                right = place < guesses.tokens.size and step.token == guesses.tokens[place]
                if right:
                    counted(0, 1)
                yield step
                if step.finish_reason is not None:
                    return
                if not right:
                    break
            raise_if_cancelled(cancelled)
            decoder.rewind(len(history.ids) - 1)
            guesses = guesser.guess(history.ids, history.room - 1)
            counted(guesses.tokens.size, 0)
            rows = _run(decoder, step.token, guesses.tokens)
    finally:  # also where the answer is not read to its end: what was computed for wrong guesses goes
        decoder.rewind(min(decoder.length, len(history.ids) - 1))


def _run(decoder: VerifyingDecoder, newest: int, guesses: Ids) -> NDArray[np.float32]:
    """The logits behind the newest token and behind each guess, (1 + K, V)."""
    if not guesses.size:
        return decoder.step(newest)[None]
    return decoder.verify(np.concatenate(([newest], guesses)))
