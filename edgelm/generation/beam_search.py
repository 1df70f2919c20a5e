"""Beam search over one or several sources at a time: one loop for beams, drawn beams and groups of beams.

logits = prefill(prompts)
repeat:  each source takes its beams a step on, and says which rows it goes on with;  logits = step(their tokens)

Sources do not influence each other: one that is done leaves the batch.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence

import numpy as np
from numpy.typing import NDArray

from edgelm.config import GenerationConfig
from edgelm.generation.batch import BatchDecoder
from edgelm.generation.beam_finished import Hypothesis as Hypothesis  # what a search gives back
from edgelm.generation.beam_groups import GroupedSource
from edgelm.generation.beam_source import BeamSource, SourceSearch
from edgelm.generation.logits_processors import Logits, LogitsProcessor
from edgelm.generation.loop import Step, raise_if_cancelled
from edgelm.generation.requests import Request, check_request, check_requests


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
        config: with ``do_sample`` continuations are drawn; with ``num_beam_groups`` above 1, see ``beam_groups``.
        processors: run on the log probabilities, after the built-in ones.
        prefill_ended: called once the prompts are computed.
        cancelled: asked before each run of the decoder.

    Raises:
        ConfigError, PromptError, ContextLengthError: see ``check_requests``.
        NumericError: logits hold NaN or infinity, or no token is allowed.
        CancelledError: ``cancelled`` returned true.
    """
    tasks = check_requests(requests, config, decoder, processors=processors)
    kind = BeamSource if config.num_beam_groups == 1 else GroupedSource
    searches: list[SourceSearch] = [kind(task, config) for task in tasks]
    asked = cancelled or (lambda: False)
    raise_if_cancelled(asked)
    logits = decoder.prefill([task.prompt for task in tasks])
    if prefill_ended is not None:
        prefill_ended()
    # So far there is one row for each source: its beams are still the same.
    running = _advance(searches, np.arange(len(searches) + 1), logits, decoder)
    while running:
        raise_if_cancelled(asked)
        tokens = [search.last_tokens for search in running]
        first_rows = np.cumsum([0, *map(len, tokens)])
        running = _advance(running, first_rows, decoder.step(np.concatenate(tokens)), decoder)
    return [search.hypotheses()[: config.num_return_sequences] for search in searches]


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
    check_request(request, config, decoder, processors=processors)
    return _best_steps(
        lambda: beam_search(decoder, [request], config, processors=processors, prefill_ended=prefill_ended)
    )


def _best_steps(search: Callable[[], list[list[Hypothesis]]]) -> Generator[Step, None, None]:
    best = search()[0][0]
    for token in best.tokens[:-1]:
        yield Step(token, score=best.score)
    yield Step(best.tokens[-1], best.finish_reason, score=best.score)


def _advance(
    searches: list[SourceSearch], first_rows: NDArray[np.int64], logits: Logits, decoder: BatchDecoder
) -> list[SourceSearch]:
    """Takes each search a step on, and has the decoder keep the rows of those that are not done, which it returns.

    ``first_rows``: (len(searches) + 1,) where the rows of each begin, and where the last one's end.
    """
    running: list[SourceSearch] = []
    rows: list[NDArray[np.int64]] = []
    for search, start, end in zip(searches, first_rows[:-1], first_rows[1:], strict=True):
        parents = search.advance(logits[start:end])
        if not search.done:
            running.append(search)
            rows.append(start + (parents if end - start > 1 else np.zeros_like(parents)))
    if running:
        decoder.select(np.concatenate(rows))
    return running
