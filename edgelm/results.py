"""What a generation gives back: text, tokens, why it ended, what it cost."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of the prompt (``cached``: of these, taken from the KV cache) and of the answer.

    ``dropped_tokens``: what the model did not have in view any more when the answer ended, because it did not fit into
    the context window: of ``dropped_turns`` of the conversation, which ``prompt_tokens`` leave out, or, where the
    window slid, of prompt and answer.
    """

    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    dropped_tokens: int = 0
    dropped_turns: int = 0


@dataclass(frozen=True, slots=True)
class Timings:
    """Seconds: until the first token (``ttft_s``), in prefill, in decoding after that.

    The first token comes with the end of prefill, but those of a beam search all come at its end.

    ``draft_n``: tokens that a draft model or a search in the prompt has guessed, and ``draft_n_accepted``, how many of
    them were right, where there were guesses.
    """

    ttft_s: float
    prefill_s: float
    decode_s: float
    draft_n: int = 0
    draft_n_accepted: int = 0


class Stopwatch:
    """Takes the times of one answer, which begins now, or when ``start`` is called."""

    def __init__(self) -> None:
        self.start()
        self._prefilled: float | None = None
        self._first: float | None = None
        self._guessed = self._right = 0

    def start(self) -> None:
        """The answer begins."""
        self._started = time.perf_counter()

    def prefill_ended(self) -> None:
        """To be told where tokens come later than prefill ends; else the first token tells it."""
        self._prefilled = time.perf_counter()

    def token_came(self) -> None:
        """To be told of each token; the first counts."""
        if self._first is None:
            self._first = time.perf_counter()
            self._prefilled = self._prefilled or self._first

    def guessed(self, tokens: int, right: int) -> None:
        """To be told of guesses, and of those that were right."""
        self._guessed += tokens
        self._right += right

    def timings(self) -> Timings:
        """The times, the answer ending now; one without a token is all prefill."""
        now = time.perf_counter()
        prefilled = self._prefilled or now
        return Timings(
            (self._first or now) - self._started,
            prefilled - self._started,
            now - prefilled,
            draft_n=self._guessed,
            draft_n_accepted=self._right,
        )


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A function that the model wants to be called.

    ``arguments`` come from the model: ``fault`` says what is wrong with them, or with the name, by the tools that were
    offered; None: nothing. ``id``: nine letters and digits, for the message with its result.
    """

    id: str
    name: str
    arguments: dict[str, Any]
    fault: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """The same as plain values, as chat templates take it; ``arguments`` are an object, not a string of JSON."""
        return {"id": self.id, "type": "function", "function": {"name": self.name, "arguments": self.arguments}}


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of a streamed answer; the last, whose text may be empty, has ``finish_reason`` and the ``tool_calls``."""

    text: str
    finish_reason: str | None = None
    tool_calls: tuple[ToolCall, ...] = ()


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """A token, its text (U+FFFD where it is a part of a character), its log probability, and those of the likeliest."""

    id: int
    token: str
    logprob: float
    top_logprobs: tuple[TokenLogprob, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """The same as plain values, as OpenAI's API has it."""
        own = {"id": self.id, "token": self.token, "logprob": round(self.logprob, 6)}
        return own | ({"top_logprobs": [top.as_dict() for top in self.top_logprobs]} if self.top_logprobs else {})


@dataclass(frozen=True, slots=True)
class GenerationResult:
    """A finished answer.

    ``token_ids`` end with the end-of-sequence token if there was one; ``text`` is without special tokens and cut before
    a stop string. ``finish_reason``: ``stop``, ``length``, or ``tool_calls`` where the model stopped to have functions
    called. ``peak_memory``: the process's so far, in bytes. ``logprobs``: one for each token where they were asked for,
    else None. ``tool_calls``: taken out of the text.

    ``score``: where beams found it, the sum of the log probabilities of the whole answer, also of what a stop string
    cuts, after the length penalty: transformers' ``sequences_scores``; else None.
    """

    text: str
    token_ids: tuple[int, ...]
    finish_reason: str
    usage: Usage
    timings: Timings
    peak_memory: int
    logprobs: tuple[TokenLogprob, ...] | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    score: float | None = None

    def as_message(self) -> dict[str, Any]:
        """The answer as a message of the conversation, to be followed by one of the role ``tool`` for each call."""
        calls = {"tool_calls": [call.as_dict() for call in self.tool_calls]} if self.tool_calls else {}
        return {"role": "assistant", "content": self.text, **calls}

    def as_dict(self) -> dict[str, Any]:
        """The same as plain values, as ``--json`` prints it."""
        prefilled = self.usage.prompt_tokens - self.usage.cached_tokens
        decoded = self.usage.completion_tokens - 1
        drafted = {"draft_n": self.timings.draft_n, "draft_n_accepted": self.timings.draft_n_accepted}
        values: dict[str, Any] = {
            "text": self.text,
            "tokens": list(self.token_ids),
            "finish_reason": self.finish_reason,
            "usage": {
                "prompt_tokens": self.usage.prompt_tokens,
                "cached_tokens": self.usage.cached_tokens,
                "completion_tokens": self.usage.completion_tokens,
                "dropped_tokens": self.usage.dropped_tokens,
                "dropped_turns": self.usage.dropped_turns,
            },
            "timings": {
                "ttft_s": round(self.timings.ttft_s, 4),
                "prefill_s": round(self.timings.prefill_s, 4),
                "decode_s": round(self.timings.decode_s, 4),
                "prefill_tps": _rate(prefilled, self.timings.prefill_s),
                "decode_tps": _rate(decoded, self.timings.decode_s),
                **(drafted if self.timings.draft_n else {}),
            },
            "memory": {"peak_bytes": self.peak_memory},
        }
        if self.score is not None:
            values["score"] = round(self.score, 6)
        if self.logprobs is not None:
            values["logprobs"] = {"content": [token.as_dict() for token in self.logprobs]}
        if self.tool_calls:
            faults = [{"fault": call.fault} if call.fault else {} for call in self.tool_calls]
            values["tool_calls"] = [call.as_dict() | fault for call, fault in zip(self.tool_calls, faults, strict=True)]
        return values


def _rate(tokens: int, seconds: float) -> float | None:
    return round(tokens / seconds, 1) if tokens > 0 and seconds > 0 else None
