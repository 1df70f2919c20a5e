"""How good an encoder's graph is: its outputs for each sentence of the evaluation text beside a reference's."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgelm.bundle.progress import NoProgress, Progress
from edgelm.runtime.cores import available_cores
from edgelm.runtime.session import Session
from edgelm.text.sentences import split_sentences
from edgelm.text.tokenizer import Tokenizer
from edgelm_tools.architectures.base import ModelFacts
from edgelm_tools.quality import evaluation_text, log_softmax
from edgelm_tools.runs import run_encoder

SENTENCES = 200
_TINY = 1e-12

Values = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class EncoderQuality:
    """What quantization cost.

    ``tokens``: how many were looked at; ``figures``: name → mean or least value over sentences.
    """

    tokens: int
    figures: dict[str, float]

    def as_dict(self) -> dict[str, float]:
        """The figures, rounded as they are published."""
        return {name: round(value, 5) for name, value in self.figures.items()}


def measure_encoder(
    folder: Path, reference: Path, facts: ModelFacts, progress: Progress | None = None
) -> EncoderQuality:
    """Runs the encoders of both folders over the evaluation text, sentence by sentence; ``folder`` has the tokenizer.

    Of a bare model the mean and the least cosine of the sentences' vectors (hidden states, averaged) are given; of a
    model with a head, how often both prefer the same, and the divergence of their distributions in nats.
    """
    tokenizer = Tokenizer.from_file(folder / "tokenizer.json")
    text = " ".join(evaluation_text().split())
    texts = [tokenizer.encode(sentence)[: facts.context_length] for sentence in split_sentences(text)[:SENTENCES]]
    texts = [ids for ids in texts if ids]
    shown = progress or NoProgress()
    shown.start("Measuring quality", len(texts))
    pairs: list[list[tuple[Values, Values]]] = []
    with closing(_session(folder)) as candidate, closing(_session(reference)) as yardstick:
        for ids in texts:
            ours, theirs = run_encoder(candidate, ids), run_encoder(yardstick, ids)
            pairs.append([(ours[name], theirs[name]) for name in theirs])
            shown.advance(1)
    shown.finish()
    figures = _cosines(pairs) if facts.tasks == ("feature-extraction",) else _agreement(facts, pairs)
    return EncoderQuality(sum(map(len, texts)), figures)


def _session(folder: Path) -> Session:
    return Session(folder / "encoder.onnx", threads=available_cores(), spinning=False)


def _cosines(pairs: list[list[tuple[Values, Values]]]) -> dict[str, float]:
    cosines = [_cosine(ours.mean(axis=0), theirs.mean(axis=0)) for ((ours, theirs),) in pairs]
    return {"cosine": float(np.mean(cosines)), "least_cosine": float(np.min(cosines))}


def _cosine(a: Values, b: Values) -> float:
    return float(a @ b / max(float(np.linalg.norm(a) * np.linalg.norm(b)), _TINY))


def _agreement(facts: ModelFacts, pairs: list[list[tuple[Values, Values]]]) -> dict[str, float]:
    # (distributions, values): a text's or a token's labels, or the places where an answer may begin or end.
    rows = [(np.atleast_2d(ours), np.atleast_2d(theirs)) for pair in pairs for ours, theirs in pair]
    if facts.head and len(facts.head.labels) == 1:
        return {"difference": float(np.mean([np.abs(ours - theirs).mean() for ours, theirs in rows]))}
    kl, agreed = [], []
    for ours, theirs in rows:
        log_q, log_p = log_softmax(ours), log_softmax(theirs)
        kl.append((np.exp(log_p) * (log_p - log_q)).sum(axis=1))
        agreed.append(ours.argmax(axis=1) == theirs.argmax(axis=1))
    return {"kl": float(np.concatenate(kl).mean()), "top1": float(np.concatenate(agreed).mean())}
