"""A decoder in two halves gives the logits that it gives as a whole."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper
from support.gpt_tensors import gpt_config, gpt_tensors
from support.memory_checkpoint import LLAMA_CONFIG, MemoryCheckpoint, llama_tensors
from support.native_graphs import write_native
from support.progress import RecordedProgress

from edgelm.errors import ModelError
from edgelm.runtime.decoder import Decoder
from edgelm_tools.decoder_halves import hidden_states, open_second_half, split_decoder
from edgelm_tools.evaluate import CHUNK, open_decoder
from edgelm_tools.known_logits import KnownLogits
from edgelm_tools.quantize.schemes import SCHEMES, Float32, scheme_named

VOCABULARY = 50
TEXTS = [np.random.default_rng(2).integers(0, VOCABULARY, count).tolist() for count in (25, 7)]


def checkpoint(model_type: str) -> MemoryCheckpoint:
    if model_type == "llama":
        return MemoryCheckpoint(llama_tensors(), LLAMA_CONFIG)
    return MemoryCheckpoint(gpt_tensors(model_type), gpt_config(model_type, tie_word_embeddings=True))


def assert_halves_are_the_whole(path: Path, chunk: int) -> None:
    halves = split_decoder(path.read_bytes())
    shown = RecordedProgress()
    with open_decoder(path, 32) as whole:
        expected = [np.concatenate([part.copy() for part in _fresh(whole, ids)]) for ids in TEXTS]
    with open_decoder(path, 32, halves.first, vocab_size=VOCABULARY) as first:
        shown.start("Reading", None)
        states = hidden_states(first, TEXTS, shown)
    assert shown.transfers == [("Reading", None, sum(map(len, TEXTS)))]
    with open_second_half(path, halves.second) as session:
        second = KnownLogits(session, states, chunk)
        for ids, logits in zip(TEXTS, expected, strict=True):
            parts = list(second.all_logits(ids))
            assert [len(part) for part in parts] == [len(ids[i : i + chunk]) for i in range(0, len(ids), chunk)]
            np.testing.assert_allclose(np.concatenate(parts), logits, rtol=1e-5, atol=1e-5)
        with pytest.raises(KeyError):
            next(second.all_logits([1, 2, 3]))


def _fresh(decoder: Decoder, ids: list[int]) -> Iterator[NDArray[np.float32]]:
    decoder.rewind(0)
    return decoder.all_logits(ids)


@pytest.mark.parametrize("model_type", ["llama", "gpt2", "gpt_neox", "opt", "bloom"])
def test_every_family_is_cut(model_type: str, tmp_path: Path) -> None:
    """Of widths that differ from head to stream, with biases, a norm in front or behind, a tied table."""
    path = tmp_path / "decoder.onnx"
    write_native(path, checkpoint(model_type), Float32())
    assert_halves_are_the_whole(path, 10)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_every_scheme_is_cut(scheme: str, tmp_path: Path) -> None:
    """In the same chunks: one scheme rounds the tokens of a chunk together."""
    path = tmp_path / "decoder.onnx"
    write_native(path, checkpoint("llama"), scheme_named(scheme))
    assert_halves_are_the_whole(path, CHUNK)
    halves = split_decoder(path.read_bytes())
    graphs = path.read_bytes(), halves.first, halves.second
    whole, first, second = (onnx.load_model_from_string(graph).graph for graph in graphs)
    weights = [{tensor.name for tensor in graph.initializer} for graph in (whole, first, second)]
    assert weights[0] & {name for node in whole.node for name in node.input} <= weights[1] | weights[2]
    assert not any(name.startswith("layer0") for name in weights[2])
    assert not any(node.op_type == "GroupQueryAttention" for node in second.node)
    assert [value.name for value in second.input] == ["states"]


def test_a_graph_that_takes_no_rows_is_refused() -> None:
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ("rows", 3)) for name in ("x", "logits")]
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["logits"])], "g", values[:1], values[1:])
    with pytest.raises(ModelError, match="cannot be cut in two: it takes no rows"):
        split_decoder(helper.make_model(graph).SerializeToString())
