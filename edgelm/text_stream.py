"""An answer as it is made: tokens from the generation loop become text that is final."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable, Generator, Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Self

from edgelm.errors import CancelledError
from edgelm.generation.logprobs import StepLogprobs
from edgelm.generation.loop import Step
from edgelm.results import Chunk, GenerationResult, Stopwatch, TokenLogprob, ToolCall, Usage
from edgelm.runtime.memory import peak_memory
from edgelm.text.detokenizer import IncrementalDetokenizer
from edgelm.text.stop_strings import StopMatcher
from edgelm.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from edgelm.tool_calls.offer import OfferedTools
    from edgelm.tool_calls.scanner import CallScanner


class IncrementalText:
    """Tokens to text that is final: detokenized, and cut before a stop string; calls of ``tools`` are taken out."""

    def __init__(self, tokenizer: Tokenizer, stops: tuple[str, ...], tools: OfferedTools | None = None) -> None:
        self._tokenizer = tokenizer
        self._logprobs: list[TokenLogprob] = []
        self._detokenizer = IncrementalDetokenizer(tokenizer)
        self._matcher = StopMatcher(stops)
        self._tools = tools
        self._scanner = None if tools is None else _scanner(tools)
        # Marks of calls that are special tokens, which have no text elsewhere.
        marks = () if tools is None else (mark for style in tools.styles for mark in style.markers)
        ids = {mark: tokenizer.token_to_id(mark) for mark in marks}
        self._marks = {token: mark for mark, token in ids.items() if token in tokenizer.special_token_ids}

    @property
    def tool_calls(self) -> tuple[ToolCall, ...]:
        """The calls so far."""
        if self._tools is None or self._scanner is None:
            return ()
        return tuple(map(self._tools.toolbox.call, self._scanner.calls))

    @property
    def logprobs(self) -> tuple[TokenLogprob, ...] | None:
        """Of the tokens so far; None where nobody asked for them."""
        return tuple(self._logprobs) or None

    def note(self, token: int, logprobs: StepLogprobs | None) -> None:
        """Keeps what is known of a token's probability."""
        if logprobs is not None:
            top = tuple(TokenLogprob(other, self._text(other), value) for other, value in logprobs.top)
            self._logprobs.append(TokenLogprob(token, self._text(token), logprobs.logprob, top))

    def push(self, token: int) -> tuple[str, bool]:
        """The text that a token makes final, and whether a stop string ended the answer."""
        if token in self._marks:
            text = self._detokenizer.finish() + self._marks[token]
        else:
            # Logits are often padded to a round width: what is beyond the tokenizer has no text.
            text = self._detokenizer.push(token) if self._tokenizer.has_id(token) else ""
        text, stopped = self._matcher.push(text)
        return self._without_calls(text, at_end=stopped), stopped

    def finish(self) -> tuple[str, bool]:
        """The rest, now that no token follows, and whether a stop string was in it."""
        text, stopped = self._matcher.push(self._detokenizer.finish())
        return self._without_calls(text if stopped else text + self._matcher.finish(), at_end=True), stopped

    def _without_calls(self, text: str, *, at_end: bool) -> str:
        if self._scanner is None:
            return text
        return self._scanner.push(text) + (self._scanner.finish() if at_end else "")

    def _text(self, token: int) -> str:
        return self._tokenizer.decode([token], skip_special_tokens=False) if self._tokenizer.has_id(token) else ""


def _scanner(tools: OfferedTools) -> CallScanner:
    from edgelm.tool_calls.scanner import CallScanner  # most answers do without

    return CallScanner(tools.styles, tools.toolbox.names)


class TextStream(Iterator[Chunk]):
    """Iterates over the chunks of one answer; ``result`` is there once it has ended.

    Closing it, leaving its ``with`` block or dropping it ends the generation and frees the decoder.

    Args:
        steps: the tokens; closed when the stream ends.
        text: turns them into text.
        prompt_tokens, cached_tokens: for the usage.
        watch: told by the steps when prefill ends, where no token tells it.
        close: called once when the stream ends, however it ends, with the tokens of the answer and whether the
            decoder's cache is still what they say.
        cancel: ends the run in progress, from another thread; the decoder's cache is then not to be trusted.
        dropped: asked at the end for the dropped tokens and turns of the usage.
        computed: tells how many tokens the decoder holds; None where that says nothing of the prompt.
    """

    def __init__(
        self,
        steps: Generator[Step, None, None],
        text: IncrementalText,
        *,
        prompt_tokens: int,
        cached_tokens: int,
        close: Callable[[tuple[int, ...], bool], None],
        cancel: Callable[[], object] = lambda: None,
        watch: Stopwatch | None = None,
        dropped: Callable[[], tuple[int, int]] = lambda: (0, 0),
        computed: Callable[[], int] | None = None,
    ) -> None:
        self._prompt_tokens, self._computed = prompt_tokens, computed
        # The generator must not refer to the stream: dropping the last reference to that then ends it at once.
        self._answer = _Answer(steps, close, cancel, (prompt_tokens, cached_tokens), watch or Stopwatch(), dropped)
        self._chunks = self._answer.run(text)

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
        if self._answer.result is None:
            raise RuntimeError("the answer has not been read to its end")
        return self._answer.result

    @property
    def prompt_progress(self) -> tuple[int, int] | None:
        """Tokens of the prompt that are computed, and all of them, for another thread to watch; None: not known."""
        return None if self._computed is None else (min(self._computed(), self._prompt_tokens), self._prompt_tokens)

    @property
    def text(self) -> str:
        """The text given out so far."""
        return "".join(self._answer.texts)

    def drain(self) -> GenerationResult:
        """Reads to the end and returns the whole answer."""
        for _ in self:
            pass
        return self.result

    def close(self) -> None:
        """Ends the generation; may be called twice.

        Where another thread is reading, that ends in the middle of the prompt or at the next token.
        """
        self._answer.wanted = False
        try:
            self._chunks.close()
        except ValueError:
            if inspect.getgeneratorstate(self._chunks) != inspect.GEN_RUNNING:
                raise
            self._answer.cancel_prefill()
        else:
            self._answer.finish(healthy=True)


class _Answer:
    """What a stream has got so far, and the loop that gets more."""

    def __init__(
        self,
        steps: Generator[Step, None, None],
        close: Callable[[tuple[int, ...], bool], None],
        cancel: Callable[[], object],
        prompt_tokens: tuple[int, int],
        watch: Stopwatch,
        dropped: Callable[[], tuple[int, int]],
    ) -> None:
        self.texts: list[str] = []
        self.result: GenerationResult | None = None
        self._steps = steps
        self._on_close: Callable[[tuple[int, ...], bool], None] | None = close
        self._cancel, self._cancelled = cancel, False
        self._ending = threading.RLock()  # a signal's handler may come back into what it interrupts
        self._prompt_tokens = prompt_tokens
        self._watch = watch
        self._dropped = dropped
        self._token_ids: list[int] = []
        self.wanted = True

    def run(self, text: IncrementalText) -> Generator[Chunk, None, None]:
        self._watch.start()
        try:
            for step in self._steps:
                self._watch.token_came()
                self._token_ids.append(step.token)
                text.note(step.token, step.logprobs)
                if not self.wanted:
                    self.finish(healthy=True)
                    return
                piece, stopped = text.push(step.token)
                if step.finish_reason and not stopped:
                    rest, stopped = text.finish()
                    piece += rest
                if step.finish_reason or stopped:
                    reason = "stop" if stopped else str(step.finish_reason)
                    yield self._end(piece, reason, text, step.score)
                    return
                if piece:
                    self.texts.append(piece)
                    yield Chunk(piece)
        except GeneratorExit:
            self.finish(healthy=True)
            raise
        except CancelledError:
            self.finish(healthy=False)
            if self.wanted:
                raise
        except BaseException:  # the KV cache may be half written, also after Ctrl-C
            self.finish(healthy=False)
            raise

    def finish(self, *, healthy: bool) -> None:
        """Frees the decoder, once."""
        with self._ending:
            on_close, self._on_close = self._on_close, None
        if on_close is not None:
            self._steps.close()
            on_close(tuple(self._token_ids), healthy and not self._cancelled)

    def cancel_prefill(self) -> None:
        """Ends the run in progress if there is no token yet: a step ends soon, and then leaves the cache as it was."""
        with self._ending:  # a decoder that is given back may be another answer's by now
            if self._on_close is not None and not self._token_ids:
                self._cancelled = True
                self._cancel()

    def _end(self, piece: str, reason: str, text: IncrementalText, score: float | None) -> Chunk:
        timings, dropped = self._watch.timings(), self._dropped()
        calls = text.tool_calls
        reason = "tool_calls" if calls and reason == "stop" else reason
        self.texts.append(piece)
        self.finish(healthy=True)
        self.result = GenerationResult(
            text="".join(self.texts),
            token_ids=tuple(self._token_ids),
            finish_reason=reason,
            usage=Usage(*self._prompt_tokens, len(self._token_ids), *dropped),
            timings=timings,
            peak_memory=peak_memory(),
            logprobs=text.logprobs,
            tool_calls=calls,
            score=score,
        )
        return Chunk(piece, reason, calls)
