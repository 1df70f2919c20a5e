"""An answer as it is made: tokens from the generation loop become text that is final."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator
from types import TracebackType
from typing import Self

from edgelm.generation.loop import Step
from edgelm.results import Chunk, GenerationResult, Timings, Usage
from edgelm.runtime.memory import peak_memory
from edgelm.text.detokenizer import IncrementalDetokenizer
from edgelm.text.stop_strings import StopMatcher
from edgelm.text.tokenizer import Tokenizer


class TextStream(Iterator[Chunk]):
    """Iterates over the chunks of one answer; ``result`` is there once it has ended.

    Closing it, leaving its ``with`` block or dropping it ends the generation and frees the decoder.

    Args:
        steps: the tokens; closed when the stream ends.
        tokenizer: turns them into text.
        stops: strings before which the answer ends.
        prompt_tokens, cached_tokens: for the usage.
        close: called once when the stream ends, however it ends.
    """

    def __init__(
        self,
        steps: Generator[Step, None, None],
        tokenizer: Tokenizer,
        *,
        stops: tuple[str, ...],
        prompt_tokens: int,
        cached_tokens: int,
        close: Callable[[tuple[int, ...], bool], None],
    ) -> None:
        self._steps = steps
        self._detokenizer = IncrementalDetokenizer(tokenizer)
        self._matcher = StopMatcher(stops)
        self._prompt_tokens = prompt_tokens
        self._cached_tokens = cached_tokens
        self._on_close: Callable[[tuple[int, ...], bool], None] | None = close
        self._token_ids: list[int] = []
        self._texts: list[str] = []
        self._result: GenerationResult | None = None
        self._chunks = self._run()

    def __next__(self) -> Chunk:
        return next(self._chunks)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()

    @property
    def result(self) -> GenerationResult:
        """The whole answer.

        Raises:
            RuntimeError: the stream has not come to its end.
        """
        if self._result is None:
            raise RuntimeError("the answer has not been read to its end")
        return self._result

    @property
    def text(self) -> str:
        """The text given out so far."""
        return "".join(self._texts)

    def drain(self) -> GenerationResult:
        """Reads to the end and returns the whole answer."""
        for _ in self:
            pass
        return self.result

    def close(self) -> None:
        """Ends the generation; may be called twice."""
        self._chunks.close()
        self._finish(healthy=True)

    def _run(self) -> Generator[Chunk, None, None]:
        started = time.perf_counter()
        first = started
        try:
            for step in self._steps:
                if not self._token_ids:
                    first = time.perf_counter()
                self._token_ids.append(step.token)
                text, stopped = self._matcher.push(self._detokenizer.push(step.token))
                if step.finish_reason or stopped:
                    reason = "stop" if stopped else str(step.finish_reason)
                    text = text if stopped else text + self._rest()
                    timings = Timings(first - started, first - started, time.perf_counter() - first)
                    self._end(text, reason, timings)
                    yield Chunk(text, reason)
                    return
                if text:
                    self._texts.append(text)
                    yield Chunk(text)
        except GeneratorExit:
            self._finish(healthy=True)
            raise
        except BaseException:  # the KV cache may be half written, also after Ctrl-C
            self._finish(healthy=False)
            raise

    def _rest(self) -> str:
        text, stopped = self._matcher.push(self._detokenizer.finish())
        return text if stopped else text + self._matcher.finish()

    def _end(self, text: str, reason: str, timings: Timings) -> None:
        self._texts.append(text)
        self._finish(healthy=True)
        usage = Usage(self._prompt_tokens, self._cached_tokens, len(self._token_ids))
        self._result = GenerationResult(self.text, tuple(self._token_ids), reason, usage, timings, peak_memory())

    def _finish(self, *, healthy: bool) -> None:
        if self._on_close is not None:
            on_close, self._on_close = self._on_close, None
            self._steps.close()
            on_close(tuple(self._token_ids), healthy)
