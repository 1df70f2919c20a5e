"""What quantization costs, as figures: next-token distributions beside those of a reference, on a fixed text."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from importlib.resources import files

import numpy as np
from numpy.typing import NDArray

# Logits that are looked at in one go: a multiple of their memory is needed for a moment.
_MOST_VALUES = 1 << 20


@dataclass(frozen=True, slots=True)
class Quality:
    """What quantization cost.

    ``tokens``: how many were looked at; ``kl``: mean KL divergence of the next-token distributions from the
    reference's, in nats; ``top1``: share of positions where both prefer the same token.
    """

    tokens: int
    kl: float
    perplexity: float
    reference_perplexity: float
    top1: float

    def as_dict(self) -> dict[str, float]:
        """The figures, rounded as they are published."""
        return {
            "kl": round(self.kl, 5),
            "perplexity": round(self.perplexity, 4),
            "reference_perplexity": round(self.reference_perplexity, 4),
            "top1": round(self.top1, 4),
        }


@dataclass(slots=True)
class Tally:
    """Collects the figures chunk by chunk."""

    _kl: list[NDArray[np.float32]] = field(default_factory=list)
    _agreed: list[NDArray[np.bool_]] = field(default_factory=list)
    _losses: list[tuple[float, float]] = field(default_factory=list)

    def add(self, ours: NDArray[np.float32], theirs: NDArray[np.float32], following: NDArray[np.int64]) -> None:
        """Logits (R, V) of both, and the tokens that really follow: R of them, or fewer where the text ends."""
        rows = max(1, _MOST_VALUES // ours.shape[1])
        for start in range(0, len(ours), rows):
            part = slice(start, start + rows)
            self._add(ours[part], theirs[part], following[part])

    def _add(self, ours: NDArray[np.float32], theirs: NDArray[np.float32], following: NDArray[np.int64]) -> None:
        log_q, log_p = log_softmax(ours), log_softmax(theirs)
        self._kl.append((np.exp(log_p) * (log_p - log_q)).sum(axis=1, dtype=np.float64))
        self._agreed.append(ours.argmax(axis=1) == theirs.argmax(axis=1))
        rows = np.arange(len(following))
        self._losses += zip(-log_q[rows, following], -log_p[rows, following], strict=True)

    def quality(self) -> Quality:
        """The figures over all that was added, at least one token with another behind it."""
        mean_q, mean_p = np.asarray(self._losses, np.float64).mean(axis=0)
        return Quality(
            tokens=sum(map(len, self._kl)),
            kl=float(np.concatenate(self._kl).mean()),
            perplexity=math.exp(mean_q),
            reference_perplexity=math.exp(mean_p),
            top1=float(np.concatenate(self._agreed).mean()),
        )


def log_softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """(R, V) → log-probabilities (R, V)."""
    shifted = logits - logits.max(axis=1, keepdims=True)
    result: NDArray[np.float32] = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return result


def evaluation_text() -> str:
    """The text that every report uses: plain English prose that comes with the tools."""
    return files("edgelm_tools").joinpath("texts", "evaluation.txt").read_text(encoding="utf-8")
