"""The fp32 logits of a decoder, computed layer by layer: a model's yardstick takes the memory of one of its layers.

Each part is built as a small graph of its own, run over all texts, and deleted; the residual stream of all texts goes
from one to the next.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgelm.bundle.progress import NoProgress, Progress, transfer
from edgelm.runtime.cores import available_cores
from edgelm.runtime.session import Session, Tensor, give_back_freed_memory
from edgelm_tools.graph import GraphBuilder
from edgelm_tools.known_logits import HiddenStates, KnownLogits
from edgelm_tools.runs import run

Build = Callable[[GraphBuilder], None]
_PAST = "past_key_values."
# The residual stream is the sum of the two: what a layer adds is added at the next one's entry.
_STREAM = ("stream", "update")


@dataclass(frozen=True, slots=True)
class DecoderPieces:
    """A decoder in parts that can be run one after the other; see ``DecoderGraph``.

    Attributes:
        layers: how many.
        hidden_size: width of the residual stream.
        build_entry: adds what makes a residual stream of tokens.
        build_layer: adds the layer of that number.
        build_exit: adds what makes logits of the residual stream.
    """

    layers: int
    hidden_size: int
    build_entry: Build
    build_layer: Callable[[GraphBuilder, int], None]
    build_exit: Build


@contextmanager
def layered_reference(
    pieces: DecoderPieces,
    texts: Sequence[Sequence[int]],
    *,
    folder: Path,
    chunk: int,
    progress: Progress | None = None,
) -> Iterator[KnownLogits]:
    """Computes the texts, and gives out what has their logits.

    Args:
        pieces: the model.
        texts: token ids, (T,) each.
        folder: where the temporary graphs may lie.
        chunk: tokens computed in one run.
        progress: told of each layer.
    """
    shown = progress or NoProgress()
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        place = Path(temporary)
        with transfer(shown, "Computing the fp32 reference", pieces.layers):
            with _built(place, pieces.build_entry) as session:
                states = [_entered(session, ids, pieces.hidden_size, chunk) for ids in texts]
            for layer in range(pieces.layers):
                with _built(place, lambda g, i=layer: pieces.build_layer(g, i)) as session:  # type: ignore[misc]
                    for state in states:
                        _pass(session, state, chunk)
                shown.advance(1)
        with _built(place, pieces.build_exit) as session:
            yield KnownLogits(session, dict(zip(map(tuple, texts), states, strict=True)), chunk)


@contextmanager
def _built(folder: Path, build: Build) -> Iterator[Session]:
    """The part as a graph that can be run; its files are deleted behind it."""
    path = folder / "part.onnx"
    with GraphBuilder(path, name="part") as graph:
        build(graph)
        graph.save()
    try:
        with closing(Session(path, threads=available_cores(), planning=False)) as session:
            yield session
    finally:
        give_back_freed_memory()
        for file in folder.iterdir():
            file.unlink()


def _entered(session: Session, ids: Sequence[int], hidden_size: int, chunk: int) -> HiddenStates:
    shape = (1, len(ids), hidden_size)
    text = {name: np.zeros(shape, np.float32) for name in _STREAM}
    tokens, places = np.array([ids], np.int64), np.arange(len(ids), dtype=np.int64)[None]
    for start in range(0, len(ids), chunk):
        part = slice(start, start + chunk)
        inputs = {"input_ids": Tensor(tokens[:, part].copy()), "position_ids": Tensor(places[:, part].copy())}
        outputs = {name: Tensor(rows[:, part]) for name, rows in text.items() if name in session.outputs}
        run(session, inputs, outputs)
    return text


def _pass(session: Session, text: HiddenStates, chunk: int) -> None:
    """Moves a text through a layer, in place."""
    length = text["stream"].shape[1]
    pasts = {name: info.shape for name, info in session.inputs.items() if name.startswith(_PAST)}
    caches = {
        name: Tensor(np.zeros((1, int(shape[1]), length, int(shape[3])), np.float32)) for name, shape in pasts.items()
    }
    presents = {name.replace("past_key_values", "present"): cache for name, cache in caches.items()}
    for start in range(0, length, chunk):
        end = min(start + chunk, length)
        inputs = {name: Tensor(rows[:, start:end].copy()) for name, rows in text.items()} | {
            "seqlens_k": Tensor(np.array([end - 1], np.int32)),
            "total_sequence_length": Tensor(np.array(end, np.int32)),
        }
        moved = {f"next_{name}": Tensor(rows[:, start:end]) for name, rows in text.items()}
        run(session, inputs | caches, moved | presents)
