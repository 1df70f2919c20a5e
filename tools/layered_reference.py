"""The fp32 logits of a decoder, computed layer by layer: a model's yardstick takes the memory of one of its layers.

Each part is built as a small graph of its own, run over all texts, and deleted; the residual stream of all texts goes
from one to the next.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgelm.bundle.progress import NoProgress, Progress, transfer
from edgelm.language_model import available_cores
from edgelm.runtime.session import Session, Tensor, give_back_freed_memory
from edgelm_tools.graph import GraphBuilder
from edgelm_tools.runs import run

Build = Callable[[GraphBuilder], None]
_PAST = "past_key_values."


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


@dataclass(frozen=True, slots=True)
class _Text:
    """The residual stream over a text: the sum of the two, (1, T, hidden) each."""

    stream: NDArray[np.float32]
    update: NDArray[np.float32]


class LayeredReference:
    """The logits of texts that were given to ``layered_reference``, and of no others.

    Args:
        session: the exit.
        texts: token ids → residual stream behind the last layer.
        chunk: tokens whose logits are computed at a time.
    """

    def __init__(self, session: Session, texts: Mapping[tuple[int, ...], _Text], chunk: int) -> None:
        self._session = session
        self._texts = texts
        self._chunk = chunk

    def rewind(self, length: int) -> None:
        """As in ``Decoder``: nothing is kept from one text to the next."""

    def all_logits(self, ids: Sequence[int]) -> Iterator[NDArray[np.float32]]:
        """The logits of every token of a text, chunk by chunk: (S, V) float32 each."""
        text = self._texts[tuple(ids)]
        vocab_size = int(self._session.outputs["logits"].shape[1])
        for start in range(0, len(ids), self._chunk):
            part = slice(start, start + self._chunk)
            inputs = {"stream": Tensor(text.stream[:, part]), "update": Tensor(text.update[:, part])}
            logits = Tensor(np.empty((inputs["stream"].array.shape[1], vocab_size), np.float32))
            run(self._session, inputs, {"logits": logits})
            yield logits.array


@contextmanager
def layered_reference(
    pieces: DecoderPieces,
    texts: Sequence[Sequence[int]],
    *,
    folder: Path,
    chunk: int,
    progress: Progress | None = None,
) -> Iterator[LayeredReference]:
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
            yield LayeredReference(session, dict(zip(map(tuple, texts), states, strict=True)), chunk)


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


def _entered(session: Session, ids: Sequence[int], hidden_size: int, chunk: int) -> _Text:
    shape = (1, len(ids), hidden_size)
    text = _Text(np.zeros(shape, np.float32), np.zeros(shape, np.float32))
    tokens, places = np.array([ids], np.int64), np.arange(len(ids), dtype=np.int64)[None]
    for start in range(0, len(ids), chunk):
        part = slice(start, start + chunk)
        inputs = {"input_ids": Tensor(tokens[:, part].copy()), "position_ids": Tensor(places[:, part].copy())}
        outputs = {"stream": Tensor(text.stream[:, part])}
        if "update" in session.outputs:
            outputs["update"] = Tensor(text.update[:, part])
        run(session, inputs, outputs)
    return text


def _pass(session: Session, text: _Text, chunk: int) -> None:
    """Moves a text through a layer, in place."""
    length = text.stream.shape[1]
    pasts = {name: info.shape for name, info in session.inputs.items() if name.startswith(_PAST)}
    caches = {
        name: Tensor(np.zeros((1, int(shape[1]), length, int(shape[3])), np.float32)) for name, shape in pasts.items()
    }
    presents = {name.replace("past_key_values", "present"): cache for name, cache in caches.items()}
    for start in range(0, length, chunk):
        end = min(start + chunk, length)
        stream, update = text.stream[:, start:end], text.update[:, start:end]
        inputs = {
            "stream": Tensor(stream.copy()),
            "update": Tensor(update.copy()),
            "seqlens_k": Tensor(np.array([end - 1], np.int32)),
            "total_sequence_length": Tensor(np.array(end, np.int32)),
        }
        run(session, inputs | caches, {"next_stream": Tensor(stream), "next_update": Tensor(update), **presents})
