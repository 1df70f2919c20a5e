"""How good a graph is: perplexity, KL divergence and top-1 agreement against a reference, on a fixed text."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Protocol

import numpy as np

from edgelm.bundle.progress import NoProgress, Progress, transfer
from edgelm.runtime.cores import available_cores
from edgelm.runtime.decoder import Decoder
from edgelm.runtime.int8_cache import Scales, int8_cache_graph
from edgelm.runtime.session import Session, give_back_freed_memory
from edgelm.runtime.token_rows import Logits
from edgelm.text.tokenizer import Tokenizer
from edgelm_tools.architectures.base import ModelFacts
from edgelm_tools.decoder_halves import hidden_states, open_second_half, split_decoder
from edgelm_tools.evaluate_encoder import measure_encoder
from edgelm_tools.evaluate_seq2seq import measure_seq2seq
from edgelm_tools.known_logits import KnownLogits, StatesOfTexts
from edgelm_tools.layered_reference import DecoderPieces, layered_reference
from edgelm_tools.quality import Quality, Tally, evaluation_text
from edgelm_tools.quantize.tables import VECTORS, open_embedding

# With 2,048 tokens, chance alone moves perplexity by 0.2 %; that is half of what int8 costs.
EVALUATION_TOKENS = 6144
WINDOW = 2048
# Tokens a run: keeps two sets of logits of a large vocabulary within a few hundred megabytes.
CHUNK = 128


class Measured(Protocol):
    """What a report says."""

    @property
    def tokens(self) -> int:
        """How many tokens were looked at."""
        ...

    def as_dict(self) -> dict[str, float]:
        """The figures, rounded as they are published."""
        ...


class Yardstick(Protocol):
    """A decoder, or what a decoder is compared with."""

    def rewind(self, length: int) -> None:
        """As in ``Decoder``."""
        ...

    def all_logits(self, ids: Sequence[int]) -> Iterator[Logits]:
        """As in ``Decoder``, in the same chunks."""
        ...


def measure_decoder(
    folder: Path, pieces: DecoderPieces, facts: ModelFacts, progress: Progress | None = None
) -> Quality:
    """Runs the decoder of a folder, and the model in fp32, over the evaluation text in windows that fit the context.

    ``folder`` holds the tokenizer, too. The decoder is run before the model is computed layer by layer, and only its
    output head beside the model's.
    """
    windows, shown = _windows(folder, facts), progress or NoProgress()
    graph = folder / "decoder.onnx"
    halves = split_decoder(graph.read_bytes())
    with transfer(shown, "Running the model", sum(map(len, windows))):
        states = _hidden_states(graph, halves.first, facts, windows, shown)
    with (
        layered_reference(pieces, windows, folder=folder, chunk=CHUNK, progress=progress) as yardstick,
        open_second_half(graph, halves.second) as head,
    ):
        return compare(KnownLogits(head, states, CHUNK), yardstick, windows, progress)


def measure_int8_cache(folder: Path, facts: ModelFacts, scales: Scales, progress: Progress | None = None) -> Quality:
    """What an int8 KV cache costs the decoder of a folder: over the same text, in turn with the decoder itself."""
    windows, shown = _windows(folder, facts), progress or NoProgress()
    graph = folder / "decoder.onnx"
    halves = split_decoder(graph.read_bytes())
    changed = int8_cache_graph(halves.first, scales, what=graph.name)
    with transfer(shown, "Running with an int8 KV cache", 2 * sum(map(len, windows))):
        found = [_hidden_states(graph, half, facts, windows, shown) for half in (changed, halves.first)]
    with open_second_half(graph, halves.second) as head:
        candidate, yardstick = (KnownLogits(head, states, CHUNK) for states in found)
        return compare(candidate, yardstick, windows, progress)


def _hidden_states(
    graph: Path, half: bytes, facts: ModelFacts, windows: Sequence[Sequence[int]], progress: Progress
) -> StatesOfTexts:
    with open_decoder(graph, len(windows[0]), half, vocab_size=facts.vocab_size) as decoder:
        states = hidden_states(decoder, windows, progress)
    give_back_freed_memory()
    return states


def _windows(folder: Path, facts: ModelFacts) -> list[list[int]]:
    """The evaluation text in pieces that fit into the context, the first one no shorter than any other."""
    ids = Tokenizer.from_file(folder / "tokenizer.json").encode(evaluation_text())[:EVALUATION_TOKENS]
    length = min(WINDOW, facts.context_length)
    return [ids[start : start + length] for start in range(0, len(ids), length)]


@contextmanager
def open_decoder(
    path: Path, context_length: int, graph: bytes | None = None, *, vocab_size: int | None = None
) -> Iterator[Decoder]:
    """A decoder over a graph file that needs no manifest.

    Args:
        path: the file.
        context_length: tokens that its cache may hold.
        graph: used in its place.
        vocab_size: where that has no logits of the vocabulary.
    """
    with ExitStack() as opened:
        session = opened.enter_context(closing(Session(path, threads=available_cores(), graph=graph)))
        embedding = None
        if VECTORS in session.inputs:
            columns = int(session.inputs[VECTORS].shape[2])
            rows = vocab_size or int(session.outputs["logits"].shape[1])
            table = open_embedding(path.parent, rows=rows, columns=columns)
            embedding = opened.enter_context(closing(table))
        yield Decoder(session, context_length=context_length, prefill_chunk=CHUNK, embedding=embedding)


def compare(
    candidate: Yardstick,
    reference: Yardstick,
    windows: Sequence[Sequence[int]],
    progress: Progress | None = None,
) -> Quality:
    """Teacher-forced comparison over texts of token ids, (T,) each, at least one of them with T ≥ 2.

    Each window is a text of its own, for which both decoders are rewound.
    """
    shown = progress or NoProgress()
    tally = Tally()
    with transfer(shown, "Measuring quality", sum(map(len, windows))):
        for ids in windows:
            candidate.rewind(0)
            reference.rewind(0)
            start = 0
            for ours, theirs in zip(candidate.all_logits(ids), reference.all_logits(ids), strict=True):
                end = start + len(ours)
                tally.add(ours, theirs, np.asarray(ids[start + 1 : end + 1], np.int64))
                start = end
                shown.advance(len(ours))
    return tally.quality()


Measure = Callable[[Path, Path, ModelFacts, Progress | None], Measured]
"""Compares the graphs of a folder with those of a reference folder."""

MEASURES: dict[str, Measure] = {
    "encoder": measure_encoder,
    "encoder-decoder": measure_seq2seq,
}
"""Family → how its quality is measured; for decoders see ``measure_decoder``."""
