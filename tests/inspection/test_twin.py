"""The twin is the graph, but for the attention weights that it also gives."""

from __future__ import annotations

import contextlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.attention_bundles import HEADS, LAYERS, name_attention
from support.bundles import GRAPH_NAME, TinyDecoder, decoder_model
from support.encoder_bundle import GRAPH_NAME as ENCODER_NAME

from edgelm.bundle.bundle import open_bundle
from edgelm.bundle.onnx_reader import read_model
from edgelm.errors import EdgeLMError, ModelError
from edgelm.inspection.passes import InspectedGraph, decode
from edgelm.inspection.twin import make_twin
from edgelm.runtime.kv_cache import KVCache
from edgelm.runtime.session import Session, Switch, Tensor

IDS = np.array([5, 9, 4, 17, 8])


def test_all_but_attention_stays(decoder_folder: Path) -> None:
    graph = (decoder_folder / GRAPH_NAME).read_bytes()
    twin = make_twin(graph, what="graph")
    before, after = read_model(graph, what="graph"), read_model(twin.data, what="twin")
    assert before._replace(graph=None) == after._replace(graph=None)
    changed = [(a, b) for a, b in zip(before.graph.nodes, after.graph.nodes, strict=True) if a != b]
    assert [a.name for a, _ in changed] == [f"layer{i}.attention" for i in range(LAYERS)]
    assert all(b.outputs[:3] == a.outputs and b.inputs == a.inputs for a, b in changed)
    assert before.graph.initializers == after.graph.initializers
    assert before.graph.inputs == after.graph.inputs
    assert after.graph.outputs[: len(before.graph.outputs)] == before.graph.outputs
    assert len(after.graph.outputs) == len(before.graph.outputs) + LAYERS


def test_a_softmax_stands_behind_the_scores_of_an_encoder(encoder_folder: Path) -> None:
    graph = (encoder_folder / ENCODER_NAME).read_bytes()
    after = read_model(make_twin(graph, what="graph").data, what="twin").graph
    (softmax,) = (node for node in after.nodes if node.op_type == "Softmax")
    (attention,) = (node for node in after.nodes if node.op_type == "MultiHeadAttention")
    assert softmax.inputs == (attention.outputs[3],)
    assert softmax.outputs == (after.outputs[-1].name,)


def test_it_computes_what_the_graph_computes(decoder_folder: Path) -> None:
    path = decoder_folder / GRAPH_NAME
    sessions = [Session(path, threads=1), Session(path, threads=1, graph=make_twin(path.read_bytes(), what="g").data)]
    plain, twin = (_logits(session) for session in sessions)
    np.testing.assert_allclose(twin, plain, rtol=0, atol=1e-5)


def _logits(session: Session) -> np.ndarray:
    count, cache = len(IDS), KVCache(session.inputs, 16)
    cache.reserve(count)
    binding = session.binding()
    logits = Tensor(np.zeros((count, int(session.outputs["logits"].shape[1])), np.float32))
    given = {
        "input_ids": IDS[None],
        "seqlens_k": np.array([count - 1], np.int32),
        "total_sequence_length": np.array(count, np.int32),
        "logit_index": np.arange(count),
    }
    tensors = {name: Tensor(array) for name, array in given.items()}
    for name, tensor in tensors.items():
        binding.input(name, tensor)
    binding.output("logits", logits)
    cache.bind(binding)
    session.run(binding, Switch())
    return logits.array


@pytest.mark.parametrize("layers", [{1}, {0, 2}, None])
def test_layers_that_nobody_wants_give_nothing(decoder_folder: Path, layers: set[int] | None) -> None:
    bundle = open_bundle(decoder_folder)
    with (
        InspectedGraph(bundle, "decoder", threads=1, prepack=False, layers=layers) as some,
        InspectedGraph(bundle, "decoder", threads=1, prepack=False) as whole,
    ):
        assert some.layers == {"self": tuple(range(LAYERS))}
        wanted = sorted(layers or range(LAYERS))
        assert some.wanted("self") == tuple(wanted)
        assert some.heads("self") == HEADS
        weights = decode(some, IDS)["self"]
        assert np.array_equal(weights, decode(whole, IDS)["self"][wanted])


def test_the_copy_in_this_machines_layout_has_a_twin_too(decoder_folder: Path) -> None:
    bundle = open_bundle(decoder_folder)
    weights = []
    for prepack in (False, True):
        with InspectedGraph(bundle, "decoder", threads=1, prepack=prepack) as graph:
            weights.append(decode(graph, IDS)["self"])
    assert np.abs(weights[0] - weights[1]).max() < 1e-6


def test_a_graph_of_other_names_has_nothing_to_give() -> None:
    graph = decoder_model(TinyDecoder()).SerializeToString()
    twin = make_twin(graph, what="graph")
    assert (twin.data, twin.outputs, twin.layers) == (graph, {}, {})


def _small_graph() -> bytes:
    model = decoder_model(TinyDecoder())
    name_attention(model)
    return model.SerializeToString()


SMALL = _small_graph()


@given(st.integers(0, len(SMALL) - 1))
def test_a_cut_graph_is_refused_or_has_another_twin(end: int) -> None:
    try:
        twin = make_twin(SMALL[:end], what="graph")
    except ModelError:
        return
    assert twin.data != make_twin(SMALL, what="graph").data  # cut behind the graph's own message


@given(st.integers(0, len(SMALL) - 1), st.integers(0, 255))
def test_a_changed_byte_ends_in_a_twin_or_a_typed_error(place: int, value: int) -> None:
    data = SMALL[:place] + bytes([value]) + SMALL[place + 1 :]
    with contextlib.suppress(EdgeLMError):
        make_twin(data, what="graph")
