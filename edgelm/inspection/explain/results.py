"""How tokens were chosen: the distribution after each stage, who was ruled out by which and why, and the draw.

Surprise and entropy are in nats (natural logarithm); ``bits`` turns them into bits.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

Choice = Literal["likeliest", "drawn", "given"]


@dataclass(frozen=True, slots=True)
class Stage:
    """What one stage of a choice did.

    Attributes:
        name: ``raw``, the setting that asked for it (``top_k``), or the name of a caller's function.
        label: the same with its value: ``top_k=40``.
        allowed: tokens that may come after it.
        removed: tokens that it ruled out.
        removed_mass: the probability that those had before it.
        entropy: of the distribution after it, in nats.
    """

    name: str
    label: str
    allowed: int
    removed: int
    removed_mass: float
    entropy: float


@dataclass(frozen=True, slots=True)
class Candidate:
    """A token that might have come.

    Attributes:
        id: its id.
        token: its text, or the vocabulary's own form where it stands for none.
        probabilities: after each stage; 0 where it is ruled out.
        removed_by: the index of the stage that ruled it out for good; None: it might have come.
        reason: why that one did; empty where none did.
        interval: where it lies in [0, 1) of the draw, (start, end); None: it cannot be drawn, or nothing was.
    """

    id: int
    token: str
    probabilities: tuple[float, ...]
    removed_by: int | None
    reason: str
    interval: tuple[float, float] | None


@dataclass(frozen=True, slots=True)
class ExplainedToken:
    """A token, and how it was chosen.

    Attributes:
        id: its id.
        token: its text, or the vocabulary's own form where it stands for none.
        stages: ``raw``, then what changed something, in order; of a text that was given, ``raw`` alone.
        candidates: the likeliest after each stage, the likeliest that each ruled out, and the token itself; first those
            that might have come, likeliest first, then those ruled out, last by the latest stage.
        choice: ``likeliest`` was taken, or it was ``drawn``, or it is of a text that was ``given``.
        uniform: the number in [0, 1) that was drawn: the token is the one whose interval holds it, tokens being in the
            order of their ids. None: it was not drawn.
        interval: the token's own; None with ``uniform``.
        raw_surprise: -log p of the token as the model gave it, in nats; infinite where it was ruled out but forced.
        surprise: the same after the last stage.
    """

    id: int
    token: str
    stages: tuple[Stage, ...]
    candidates: tuple[Candidate, ...]
    choice: Choice
    uniform: float | None
    interval: tuple[float, float] | None
    raw_surprise: float
    surprise: float

    @property
    def raw_entropy(self) -> float:
        """Of the model's own distribution, in nats."""
        return self.stages[0].entropy

    @property
    def entropy(self) -> float:
        """Of the distribution after the last stage, in nats."""
        return self.stages[-1].entropy

    def as_dict(self) -> dict[str, Any]:
        """The same as plain values, as ``--json`` prints it."""
        return {
            "id": self.id,
            "token": self.token,
            "surprise": {"raw": _units(self.raw_surprise), "final": _units(self.surprise)},
            "entropy": {"raw": _units(self.raw_entropy), "final": _units(self.entropy)},
            "choice": self.choice,
            "draw": self._draw(),
            "stages": [_stage(stage) for stage in self.stages],
            "candidates": [self._candidate(candidate) for candidate in self.candidates],
        }

    def _draw(self) -> dict[str, Any] | None:
        if self.uniform is None or self.interval is None:
            return None
        # Not rounded: it must lie in the interval.
        return {"uniform": self.uniform, "from": self.interval[0], "to": self.interval[1]}

    def _candidate(self, candidate: Candidate) -> dict[str, Any]:
        fields = {
            "id": candidate.id,
            "token": candidate.token,
            "probabilities": [_rounded(value) for value in candidate.probabilities],
        }
        if candidate.removed_by is not None:
            stage = self.stages[candidate.removed_by]
            fields |= {"removed_by": stage.name, "reason": candidate.reason}
        return fields


@dataclass(frozen=True, slots=True)
class Explanation:
    """How the tokens of an answer were chosen, or how likely a model finds those of a text.

    Attributes:
        model: its name.
        prompt: the tokens before, as text; of an encoder-decoder, those of the source.
        text: the answer's, or the one that was given.
        tokens: each with its explanation.
        finish_reason: why the answer ended; None: the text was given.
    """

    model: str
    prompt: tuple[str, ...]
    text: str
    tokens: tuple[ExplainedToken, ...]
    finish_reason: str | None

    @property
    def token_ids(self) -> tuple[int, ...]:
        """The ids of the tokens."""
        return tuple(token.id for token in self.tokens)

    @property
    def mean_surprise(self) -> float:
        """Under the model's own distributions, in nats."""
        return math.fsum(token.raw_surprise for token in self.tokens) / len(self.tokens)

    @property
    def perplexity(self) -> float:
        """e to the mean surprise under the model's own distributions."""
        return perplexity(self.mean_surprise)

    def as_dict(self) -> dict[str, Any]:
        """The same as plain values, as ``--json`` prints it."""
        return {
            "model": self.model,
            "prompt": list(self.prompt),
            "text": self.text,
            "finish_reason": self.finish_reason,
            "mean_surprise": _units(self.mean_surprise),
            "perplexity": _rounded(self.perplexity),
            "tokens": [token.as_dict() for token in self.tokens],
        }


def bits(nats: float) -> float:
    """The same in bits."""
    return nats / math.log(2)


def perplexity(mean_surprise: float) -> float:
    """e to a mean surprise in nats; infinite where that is beyond what numbers hold."""
    try:
        return math.exp(mean_surprise)
    except OverflowError:
        return math.inf


def _stage(stage: Stage) -> dict[str, Any]:
    return {
        "name": stage.name,
        "label": stage.label,
        "allowed": stage.allowed,
        "removed": stage.removed,
        "removed_mass": _rounded(stage.removed_mass),
        "entropy": _units(stage.entropy),
    }


def _units(nats: float) -> dict[str, float | None]:
    return {"nats": _rounded(nats), "bits": _rounded(bits(nats))}


def _rounded(value: float) -> float | None:
    """With six digits; None for what JSON cannot say."""
    return float(f"{value:.6g}") if math.isfinite(value) else None
