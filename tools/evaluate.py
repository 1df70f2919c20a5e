"""How good a graph is: perplexity, KL divergence and top-1 agreement against a reference, on a fixed text."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from edgelm.bundle.progress import NoProgress, Progress
from edgelm.language_model import available_cores
from edgelm.runtime.decoder import Decoder
from edgelm.runtime.embedding import EmbeddingTable
from edgelm.runtime.session import Session
from edgelm.text.tokenizer import Tokenizer
from edgelm_tools.architectures.base import ModelFacts
from edgelm_tools.quantize.schemes import EMBEDDING_NAME

# With 2,048 tokens, chance alone moves perplexity by 0.2 %; that is half of what int8 costs.
EVALUATION_TOKENS = 6144
_WINDOW = 2048
# Tokens a run: keeps two sets of logits of a large vocabulary within a few hundred megabytes.
_CHUNK = 128


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


class Measured(Protocol):
    """What a report says."""

    @property
    def tokens(self) -> int:
        """How many tokens were looked at."""
        ...

    def as_dict(self) -> dict[str, float]:
        """The figures, rounded as they are published."""
        ...


def evaluation_text() -> str:
    """The text that every report uses: plain English prose that comes with the tools."""
    return files("edgelm_tools").joinpath("texts", "evaluation.txt").read_text(encoding="utf-8")


def measure_decoder(folder: Path, reference: Path, facts: ModelFacts, progress: Progress | None = None) -> Quality:
    """Runs the decoders of both folders over the evaluation text, in windows that fit into the context.

    ``folder`` holds the tokenizer, too.
    """
    ids = Tokenizer.from_file(folder / "tokenizer.json").encode(evaluation_text())[:EVALUATION_TOKENS]
    length = min(_WINDOW, facts.context_length)
    windows = [ids[start : start + length] for start in range(0, len(ids), length)]
    graphs = folder / "decoder.onnx", reference / "decoder.onnx"
    with open_decoder(graphs[0], length) as candidate, open_decoder(graphs[1], length) as yardstick:
        return compare(candidate, yardstick, windows, progress)


@contextmanager
def open_decoder(graph: Path, context_length: int) -> Iterator[Decoder]:
    """A decoder over a graph file that needs no manifest."""
    session = Session(graph, threads=available_cores())
    embedding = None
    if "inputs_embeds" in session.inputs:
        columns = int(session.inputs["inputs_embeds"].shape[2])
        rows = int(session.outputs["logits"].shape[1])
        embedding = EmbeddingTable(graph.with_name(EMBEDDING_NAME), rows=rows, columns=columns)
    try:
        yield Decoder(session, context_length=context_length, prefill_chunk=_CHUNK, embedding=embedding)
    finally:
        session.close()
        if embedding is not None:
            embedding.close()


def compare(
    candidate: Decoder, reference: Decoder, windows: Sequence[Sequence[int]], progress: Progress | None = None
) -> Quality:
    """Teacher-forced comparison over texts of token ids, (T,) each, at least one of them with T ≥ 2.

    Each window is a text of its own, for which both decoders are rewound.
    """
    shown = progress or NoProgress()
    shown.start("Measuring quality", sum(map(len, windows)))
    kl: list[NDArray[np.float64]] = []
    agreed: list[NDArray[np.bool_]] = []
    losses: list[tuple[float, float]] = []
    for ids in windows:
        candidate.rewind(0)
        reference.rewind(0)
        start = 0
        for ours, theirs in zip(candidate.all_logits(ids), reference.all_logits(ids), strict=True):
            log_q, log_p = log_softmax(ours), log_softmax(theirs)
            kl.append((np.exp(log_p) * (log_p - log_q)).sum(axis=1, dtype=np.float64))
            agreed.append(ours.argmax(axis=1) == theirs.argmax(axis=1))
            end = start + len(ours)
            following = np.asarray(ids[start + 1 : end + 1], np.int64)
            rows = np.arange(len(following))
            losses += zip(-log_q[rows, following], -log_p[rows, following], strict=True)
            start = end
            shown.advance(len(ours))
    shown.finish()
    mean_q, mean_p = np.asarray(losses, np.float64).mean(axis=0)
    return Quality(
        tokens=sum(map(len, windows)),
        kl=float(np.concatenate(kl).mean()),
        perplexity=math.exp(mean_q),
        reference_perplexity=math.exp(mean_p),
        top1=float(np.concatenate(agreed).mean()),
    )


def log_softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """(R, V) → log-probabilities (R, V)."""
    shifted = logits - logits.max(axis=1, keepdims=True)
    result: NDArray[np.float32] = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return result


Measure = Callable[[Path, Path, ModelFacts, Progress | None], Measured]
"""Compares the graphs of a folder with those of a reference folder."""

MEASURES: dict[str, Measure] = {"decoder": measure_decoder}
"""Family → how its quality is measured."""
