"""The inputs of an encoder's linear layers over the calibration text: the whole model in fp32, sentence by sentence."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing
from importlib.resources import files
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgelm.runtime.cores import available_cores
from edgelm.runtime.session import Session
from edgelm.text.sentences import split_sentences
from edgelm.text.tokenizer import Tokenizer
from edgelm.text_side import fitting_tokenizer
from edgelm_tools.architectures.base import ModelFacts
from edgelm_tools.checkpoint.base import TextAssets
from edgelm_tools.graph import GraphBuilder
from edgelm_tools.quantize.schemes import Recorder, Scheme
from edgelm_tools.runs import run_encoder

ENCODER_TOKENS = 4096


def encoder_inputs(
    build: Callable[[GraphBuilder, Scheme], None], facts: ModelFacts, assets: TextAssets, folder: Path
) -> dict[str, NDArray[np.float32]]:
    """Linear layer → largest magnitudes of its inputs, (K,).

    Args:
        build: adds the bare encoder to a graph.
        facts: of the model.
        assets: its tokenizer.
        folder: where the temporary graph may lie.

    Raises:
        ModelError: the tokenizer is broken, or another model's.
    """
    tokenizer = fitting_tokenizer(assets.tokenizer, facts.vocab_size, what="tokenizer.json", model=facts.architecture)
    # The spread of neighbouring columns is for rotated decoders.
    recorder = Recorder(hadamard_size=1)
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        path = Path(temporary) / "encoder.onnx"
        with GraphBuilder(path, name="encoder") as graph:
            build(graph, recorder)
            graph.save()
        with closing(Session(path, threads=available_cores(), spinning=False)) as session:
            seen = _largest(session, _sentences(tokenizer, facts.context_length))
    return {name: seen[output] for name, output in recorder.recorded.items()}


def _sentences(tokenizer: Tokenizer, longest: int) -> Iterator[list[int]]:
    text = files("edgelm_tools").joinpath("texts", "calibration.txt").read_text(encoding="utf-8")
    left = ENCODER_TOKENS
    for paragraph in text.split("\n\n"):
        for sentence in split_sentences(" ".join(paragraph.split())):
            ids = tokenizer.encode(sentence)[: min(left, longest)]
            left -= len(ids)
            if ids:
                yield ids


def _largest(session: Session, texts: Iterator[list[int]]) -> dict[str, NDArray[np.float32]]:
    """Graph output → largest magnitudes in its columns."""
    found: dict[str, NDArray[np.float32]] = {}
    for ids in texts:
        for name, rows in run_encoder(session, ids).items():
            found[name] = np.maximum(np.abs(rows).max(axis=0), found.get(name, 0))
    return found
