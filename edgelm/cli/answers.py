"""Prints an answer as it is made, and what it cost."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from edgelm.cli import console
from edgelm.cli.progress_bar import shown_progress
from edgelm.runtime.memory import megabytes

if TYPE_CHECKING:
    from edgelm.results import GenerationResult, Usage
    from edgelm.text_stream import TextStream

PATIENCE_SECONDS = 2.0
_POLL_SECONDS = 0.1


@contextmanager
def shown_prefill(stream: TextStream) -> Iterator[Callable[[], None]]:
    """Shows how far a long prompt is read, on a terminal; what it yields is called when the answer begins."""
    begun = threading.Event()
    watcher = threading.Thread(target=_watch_prefill, args=(stream, begun), name="edgelm-prefill", daemon=True)

    def end() -> None:
        if not begun.is_set():
            begun.set()
            watcher.join()

    if not console.is_terminal(sys.stderr) or stream.prompt_progress is None:
        begun.set()
    else:
        watcher.start()
    try:
        yield end
    finally:
        end()


def _watch_prefill(stream: TextStream, begun: threading.Event) -> None:
    state = stream.prompt_progress
    if begun.wait(PATIENCE_SECONDS) or state is None:
        return
    with shown_progress() as progress:
        done = 0
        progress.start("Reading the prompt", state[1])
        while state is not None and not begun.wait(_POLL_SECONDS):
            state = stream.prompt_progress
            if state is not None and state[0] > done:
                progress.advance(state[0] - done)
                done = state[0]
        progress.finish()


def print_stream(stream: TextStream) -> None:
    """Writes each piece of text at once, and ends the line, also when the answer is broken off."""
    try:
        with shown_prefill(stream) as begin:
            for chunk in stream:
                begin()
                console.answer(chunk.text)
    finally:
        if not stream.text.endswith("\n"):
            console.answer("\n")


def cost_line(result: GenerationResult) -> str:
    """Tokens, speed and memory of an answer in one line."""
    usage, timings = result.usage, result.as_dict()["timings"]
    cached = f" ({usage.cached_tokens} cached)" if usage.cached_tokens else ""
    return ", ".join(
        (
            f"prompt {usage.prompt_tokens} tokens{cached}{_speed(timings['prefill_tps'])}",
            f"first token after {result.timings.ttft_s:.3f} s",
            f"answer {usage.completion_tokens} tokens{_speed(timings['decode_tps'])}",
            f"peak memory {megabytes(result.peak_memory)}",
        )
    )


def cut_line(result: GenerationResult, max_time: float | None) -> str | None:
    """What cut the answer off, in one line; None: it came to its end."""
    if result.finish_reason != "length":
        return None
    taken = result.timings.ttft_s + result.timings.decode_s
    by = "--max-time" if max_time is not None and taken >= max_time else "its limit of tokens"
    return f"(the answer was cut after {result.usage.completion_tokens} tokens by {by})"


def dropped_line(usage: Usage) -> str | None:
    """What of prompt and answer the model had not in view, in one line; None: it saw everything."""
    if not usage.dropped_tokens:
        return None
    turns = f"{usage.dropped_turns} turn{'s' * (usage.dropped_turns != 1)}, " if usage.dropped_turns else ""
    return f"(the context window is full; dropped: {turns}{usage.dropped_tokens} tokens)"


def _speed(tokens_per_second: float | None) -> str:
    return "" if tokens_per_second is None else f" at {tokens_per_second:.1f} tokens/s"
