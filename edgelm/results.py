"""What a generation gives back: text, tokens, why it ended, what it cost."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of the prompt (``cached``: of these, taken from the KV cache) and of the answer."""

    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int


@dataclass(frozen=True, slots=True)
class Timings:
    """Seconds: until the first token, in prefill, in decoding the tokens after the first."""

    first_token_s: float
    prefill_s: float
    decode_s: float


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of a streamed answer; ``finish_reason`` is set on the last, whose text may be empty."""

    text: str
    finish_reason: str | None = None


@dataclass(frozen=True, slots=True)
class GenerationResult:
    """A finished answer.

    ``token_ids`` end with the end-of-sequence token if there was one; ``text`` is without special tokens and cut before
    a stop string. ``finish_reason``: ``stop`` or ``length``. ``peak_memory``: the process's so far, in bytes.
    """

    text: str
    token_ids: tuple[int, ...]
    finish_reason: str
    usage: Usage
    timings: Timings
    peak_memory: int

    def as_dict(self) -> dict[str, Any]:
        """The same as plain values, as ``--json`` prints it."""
        prefilled = self.usage.prompt_tokens - self.usage.cached_tokens
        decoded = self.usage.completion_tokens - 1
        return {
            "text": self.text,
            "tokens": list(self.token_ids),
            "finish_reason": self.finish_reason,
            "usage": {
                "prompt_tokens": self.usage.prompt_tokens,
                "cached_tokens": self.usage.cached_tokens,
                "completion_tokens": self.usage.completion_tokens,
            },
            "timings": {
                "first_token_s": round(self.timings.first_token_s, 4),
                "prefill_s": round(self.timings.prefill_s, 4),
                "decode_s": round(self.timings.decode_s, 4),
                "prefill_tps": _rate(prefilled, self.timings.prefill_s),
                "decode_tps": _rate(decoded, self.timings.decode_s),
            },
            "memory": {"peak_bytes": self.peak_memory},
        }


def _rate(tokens: int, seconds: float) -> float | None:
    return round(tokens / seconds, 1) if tokens > 0 and seconds > 0 else None
