"""What a comparison found: one row for each answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from edgelm.comparison.overlap import Overlap


@dataclass(frozen=True, slots=True)
class Row:
    """An answer, and how it measures up; what could not be measured is None.

    Attributes:
        model, prompt, configuration: what they are called; ``input``: its number, from 1.
        settings: the configuration's.
        seed: None where nothing was drawn, or no seed was given.
        sample: its number, from 1, among the answers that one run gave (``num_return_sequences``).
        text, finish_reason: the answer.
        prompt_tokens, cached_tokens: of the prompt; of these, taken from an earlier row's KV cache.
        tokens: of the answer.
        tokens_per_second: of decoding, log probabilities included.
        distinct_1, distinct_2: shares of tokens and of pairs of tokens that are different ones.
        repetition: the share of 4-grams of tokens that the answer had before.
        logprob, mean_logprob: of the answer's tokens under the model's own distribution: sum and mean, in nats.
        overlap: with the references.
    """

    model: str
    prompt: str
    input: int
    configuration: str
    settings: Mapping[str, Any]
    seed: int | None
    sample: int
    text: str
    finish_reason: str
    prompt_tokens: int
    cached_tokens: int
    tokens: int
    tokens_per_second: float | None
    distinct_1: float | None
    distinct_2: float | None
    repetition: float | None
    logprob: float | None
    mean_logprob: float | None
    overlap: Overlap | None

    def as_dict(self) -> dict[str, Any]:
        """The same as plain values; measures of overlap only where there are references."""
        values: dict[str, Any] = {name: getattr(self, name) for name in _PLAIN}
        values |= {name: _rounded(getattr(self, name), digits) for name, digits in _NUMBERS.items()}
        values["settings"] = {name: _plain(value) for name, value in self.settings.items()}
        if self.overlap is not None:
            values |= {name: round(getattr(self.overlap, name), 4) for name in OVERLAPS}
        return values


_PLAIN = (
    *("model", "prompt", "input", "configuration", "seed", "sample", "text", "finish_reason"),
    *("prompt_tokens", "cached_tokens", "tokens"),
)
_NUMBERS = {
    "tokens_per_second": 1,
    "distinct_1": 4,
    "distinct_2": 4,
    "repetition": 4,
    "logprob": 4,
    "mean_logprob": 4,
}
OVERLAPS = ("rouge_1", "rouge_2", "rouge_l", "chrf")
MEASURES = ("tokens", *_NUMBERS, *OVERLAPS)
# What tells rows apart.
AXES = ("model", "prompt", "input", "configuration", "seed", "sample")


@dataclass(frozen=True, slots=True)
class Asked:
    """A prompt with its input filled in, as a text, and the references there are."""

    prompt: str
    input: int
    text: str
    references: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Comparison:
    """All answers in order: model by model, then by prompt, input, configuration and seed."""

    rows: tuple[Row, ...]
    asked: tuple[Asked, ...]

    @property
    def axes(self) -> tuple[str, ...]:
        """Those of ``AXES`` in which rows differ."""
        return tuple(axis for axis in AXES if len({getattr(row, axis) for row in self.rows}) > 1)

    @property
    def measures(self) -> tuple[str, ...]:
        """Names of the measures that some row has, as in ``Row.as_dict``."""
        found = {name for row in self.rows for name, value in row.as_dict().items() if value is not None}
        return tuple(name for name in MEASURES if name in found)

    def as_dict(self) -> dict[str, Any]:
        """The same as plain values, as ``--json`` prints it."""
        asked = [
            {"prompt": one.prompt, "input": one.input, "text": one.text, "references": list(one.references)}
            for one in self.asked
        ]
        return {"prompts": asked, "rows": [row.as_dict() for row in self.rows]}


def _plain(value: Any) -> Any:
    """What JSON can say; a class that stands for a schema is named."""
    return value.__name__ if isinstance(value, type) else value


def _rounded(value: float | None, digits: int) -> float | None:
    return None if value is None else round(value, digits)
