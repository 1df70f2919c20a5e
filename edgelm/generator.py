"""Runs generations on a loaded model, of whatever family: lends decoders, checks memory, makes batches.

It is given token ids; texts come out, so the text side is imported when the first generation begins.
"""

from __future__ import annotations

import os
from collections.abc import Generator as Steps
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property, partial
from itertools import chain
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from edgelm.answer_memory import check_answers
from edgelm.bundle.bundle import Bundle
from edgelm.config import MOST_GUESSES, GenerationConfig, RuntimeConfig
from edgelm.errors import ConfigError, EdgeLMError, MemoryLimitError, UnsupportedModelError
from edgelm.generation.beam_search import beam_steps
from edgelm.generation.hooks import NO_HOOKS, Hooks
from edgelm.generation.loop import Step, generate_ids
from edgelm.generation.requests import ModelSizes, Request, check_requests, given
from edgelm.generation.speculative import Guesser, generate_guessed_ids
from edgelm.generation_requests import check_hooks, make_request, needs_of, row_tokens, rows_each
from edgelm.guiding import Guiding, start_guiding
from edgelm.results import GenerationResult, Stopwatch
from edgelm.runtime.batches import pack
from edgelm.runtime.engine import open_engine
from edgelm.runtime.process_memory import ProcessMemory
from edgelm.runtime.sequences import LentDecoder, LentRows, Loan, SequenceDecoder, SequencePool
from edgelm.runtime.single_row import SingleRow
from edgelm.runtime.sliding import PastWindow
from edgelm.speculation import DraftModel, Speculation, start_speculation

if TYPE_CHECKING:
    from edgelm.text.tokenizer import Tokenizer
    from edgelm.text_stream import TextStream
    from edgelm.tool_calls.offer import OfferedTools

Ids = Sequence[int] | NDArray[np.int64]

# More rows are hardly faster on a processor, and wait for the longest answer among them.
MOST_ROWS = 32
# Tokens of all prompts or sources of a batch, padding included.
BATCH_TOKENS = 4096


class Generator:
    """A loaded model at work; may be used by many threads.

    Args:
        bundle: of a decoder or an encoder-decoder.
        runtime: how to run it.
        context_length: tokens that a decoder's row may have.
        memory: what it may take.
        draft: guesses what comes in single answers.

    Attributes:
        pool: the decoders that are in use, and those kept for what continues an earlier prompt.

    Raises:
        ModelError: a graph is refused.
        MemoryLimitError: there is not enough memory.
    """

    def __init__(
        self,
        bundle: Bundle,
        runtime: RuntimeConfig,
        context_length: int,
        memory: ProcessMemory,
        draft: DraftModel | None = None,
    ) -> None:
        self._bundle = bundle
        self._manifest = bundle.manifest
        self._runtime = runtime
        self._context_length = context_length
        self._draft = draft
        # Not a method: a pool that held its generator would keep a model in memory that is let go without close().
        self._check_memory = partial(check_answers, bundle.manifest, runtime, memory, draft)
        self._sizes = ModelSizes(bundle.manifest.vocab_size, context_length)
        self._process = os.getpid()
        self._engine = open_engine(bundle, runtime, context_length)
        self.pool = SequencePool(self._engine.new_decoder, keep=runtime.prefix_caches, check=self._check_memory)

    def new_decoder(self) -> SequenceDecoder:
        """A decoder of one sequence that nobody else uses."""
        return self._engine.new_decoder()

    def check_open(self) -> None:
        """Raises ClosedError once the model is closed."""
        self._engine.check_open()

    def close(self) -> None:
        """Gives memory back; generations in progress end with ClosedError. May be called twice.

        Does nothing in a process that was forked since: threads that hold locks here are not there to let go of them.
        """
        if self._process == os.getpid():
            self._engine.close()
            self.pool.close()

    def stream(
        self,
        ids: Ids,
        config: GenerationConfig,
        tokenizer: Tokenizer,
        hooks: Hooks = NO_HOOKS,
        tools: OfferedTools | None = None,
        dropped: tuple[int, int] = (0, 0),
    ) -> TextStream:
        """Begins one answer, from whose text calls of ``tools`` are taken out. With beams, all of it comes at the end.

        ``dropped``: tokens and turns that were left out of the prompt.

        Raises:
            ConfigError, PromptError, MemoryLimitError: what is wrong with the request; nothing has run then.
        """
        from edgelm.text_stream import IncrementalText, TextStream

        check_hooks(hooks, config)
        request = make_request(self._manifest, ids, config)
        tokens = row_tokens(request, config, self._context_length)
        past = self._past_window if config.overflow == "sink" else None
        text = IncrementalText(tokenizer, config.stop_strings, tools)
        if request.source is None and config.num_beams == 1:
            window = None if past is None else past.window
            loan: Loan = self.pool.borrow(np.asarray(request.prompt, np.int64), tokens, window)
        else:
            loan = self._lend_rows([request], config)
        watch = Stopwatch()
        helpers: list[Speculation | Guiding] = []
        try:
            guiding = self._start_guiding(request, config, hooks, tokens)
            if guiding is not None:
                helpers.append(guiding)
                hooks = replace(hooks, guidance=guiding.guidance)
            # An observer is told of choices, which are the same without guesses.
            plain = hooks.observer is not None or past is not None or guiding is not None
            speculation = None if plain else self._start_speculation(request, config, tokens)
            if speculation is not None:
                helpers.append(speculation)
            steps = _steps(loan, request, config, hooks, watch, speculation, past)
            if isinstance(loan, LentDecoder):
                loan.decoder.reserve(tokens)
            else:
                loan.decoder.reserve(rows_each(config), tokens)
        except EdgeLMError:  # nothing has run: what the cache holds stays right
            self._end(loan, helpers, request.prompt)
            raise
        return TextStream(
            steps,
            text,
            prompt_tokens=len(given(request)),
            cached_tokens=loan.cached,
            close=lambda answer, healthy: self._end(loan, helpers, [*request.prompt, *answer] if healthy else None),
            cancel=lambda: [each.cancel() for each in (loan.decoder, *helpers)],
            watch=watch,
            dropped=lambda: (dropped[0] + loan.dropped, dropped[1]),
            computed=(lambda: loan.decoder.length) if isinstance(loan, LentDecoder) and past is None else None,
        )

    @cached_property
    def _past_window(self) -> PastWindow:
        return PastWindow(self._bundle, self._context_length, self._runtime.kv_cache)

    def _start_speculation(self, request: Request, config: GenerationConfig, tokens: int) -> Speculation | None:
        most = config.prompt_lookup_num_tokens or (0 if self._draft is None else MOST_GUESSES)
        if most:
            needs = self.pool.needs()
            self._check_memory(replace(needs, verified=(1 + most) * needs.sequences))
        return start_speculation(request, config, self._sizes, tokens, self._draft)

    def _start_guiding(self, request: Request, config: GenerationConfig, hooks: Hooks, tokens: int) -> Guiding | None:
        return start_guiding(request, config, self._sizes, tokens, self.pool, hooks.negative_prompt)

    def _end(self, loan: Loan, helpers: Sequence[Speculation | Guiding], ids: Ids | None) -> None:
        self.pool.end(loan, ids)
        for helper in helpers:
            helper.end(ids)

    def batch(
        self, prompts: Sequence[Ids], config: GenerationConfig, tokenizer: Tokenizer, hooks: Hooks = NO_HOOKS
    ) -> list[GenerationResult]:
        """Answers prompts of any number, as many at a time as pays and as memory allows.

        Returns:
            ``num_return_sequences`` answers for each, in the order of the prompts.

        Raises:
            ConfigError, PromptError, MemoryLimitError: what is wrong with a request; nothing has run then.
        """
        check_hooks(hooks, config)
        if config.single_only is not None:
            raise ConfigError(f"{config.single_only} is for one answer at a time, not for batches")
        requests = [make_request(self._manifest, ids, config) for ids in prompts]
        check_requests(requests, config, self._sizes)
        answers: list[list[GenerationResult]] = [[] for _ in requests]
        most = max(1, MOST_ROWS // rows_each(config))
        for indices in pack([len(given(request)) for request in requests], BATCH_TOKENS):
            for start in range(0, len(indices), most):
                together = indices[start : start + most]
                made = self._run_batch([requests[index] for index in together], config, tokenizer, hooks)
                for index, several in zip(together, made, strict=True):
                    answers[index] = several
        return list(chain.from_iterable(answers))

    def _run_batch(
        self, requests: list[Request], config: GenerationConfig, tokenizer: Tokenizer, hooks: Hooks
    ) -> list[list[GenerationResult]]:
        """The answers to each request; in two halves where all at once would not fit into memory."""
        from edgelm.batch_answers import batch_answers

        try:
            loan = self._lend_rows(requests, config)
        except MemoryLimitError:
            if len(requests) == 1:
                raise
            half = len(requests) // 2
            return [
                *self._run_batch(requests[:half], config, tokenizer, hooks),
                *self._run_batch(requests[half:], config, tokenizer, hooks),
            ]
        try:
            loan.decoder.reserve(loan.needs.rows, loan.needs.longest)
            return batch_answers(loan.decoder, requests, config, tokenizer, hooks)
        finally:
            self.pool.discard(loan)

    def _lend_rows(self, requests: list[Request], config: GenerationConfig) -> LentRows:
        sources = [request.source for request in requests if request.source is not None]
        needs = needs_of(requests, config, self._context_length)
        return self.pool.lend_rows(self._engine.new_batch(sources or None), needs)


def _steps(
    loan: Loan,
    request: Request,
    config: GenerationConfig,
    hooks: Hooks,
    watch: Stopwatch,
    speculation: Speculation | None,
    past: PastWindow | None,
) -> Steps[Step, None, None]:
    if isinstance(loan, LentDecoder):
        if past is not None:
            length = len(request.prompt)
            sliding = past.over(loan.decoder, limit=length + config.new_tokens(length))
            return generate_ids(sliding, request.prompt, config, cached=loan.cached, hooks=hooks)
        if speculation is not None:
            return _guessed_steps(loan, request, config, hooks, watch, speculation.guesser)
        return generate_ids(loan.decoder, request.prompt, config, cached=loan.cached, hooks=hooks)
    if config.num_beams > 1:
        own = hooks.logits_processor
        return beam_steps(loan.decoder, request, config, processors=own, prefill_ended=watch.prefill_ended)
    source = None if request.source is None else np.asarray(request.source, np.int64)
    return generate_ids(SingleRow(loan.decoder), request.prompt, config, source=source, hooks=hooks)


def _guessed_steps(
    loan: LentDecoder, request: Request, config: GenerationConfig, hooks: Hooks, watch: Stopwatch, guesser: Guesser
) -> Steps[Step, None, None]:
    if not loan.decoder.verifies:
        raise UnsupportedModelError("this model's graph takes one token at a time: guesses cannot be checked together")
    return generate_guessed_ids(
        loan.decoder, request.prompt, config, guesser, cached=loan.cached, hooks=hooks, counted=watch.guessed
    )
