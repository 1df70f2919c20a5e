"""Decoders of others on toy graphs whose answers are known; the real tools' are in ``test_optimum``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper
from support.foreign_graphs import CONFIG, VOCABULARY, decoder, expected, model, write_folder

from edgelm.bundle.bundle import open_bundle
from edgelm.errors import CancelledError, ClosedError, ContextLengthError, ModelError, UnsupportedModelError
from edgelm.runtime.foreign.batch import ForeignBatch
from edgelm.runtime.foreign.decoder import ForeignDecoder
from edgelm.runtime.foreign.graph import StepGraph
from edgelm.runtime.foreign.source_encoder import SourceEncoder
from edgelm.runtime.session import Session, Switch

Open = Callable[[str], StepGraph]
KINDS = ("one", "pair", "half", "int32", "renamed", "unplaced")
TOKENS = st.integers(0, VOCABULARY - 1)


def _files(kind: str) -> dict[str, object]:
    if kind == "pair":
        return {"decoder_model.onnx": decoder(past=False), "decoder_with_past_model.onnx": decoder()}
    if kind == "half":
        return {"model.onnx": decoder(half=True)}
    if kind == "int32":
        made = decoder()
        for value in made.graph.input:
            if value.type.tensor_type.elem_type == TensorProto.INT64:
                value.type.tensor_type.elem_type = TensorProto.INT32
        return {"model.onnx": made}
    if kind == "unplaced":
        return {"model.onnx": decoder(positions=False)}
    if kind == "renamed":
        names = {"past_names": "past.{layer}.{part}", "present_names": "now.{layer}.{part}", "logits": "scores"}
        genai = {
            "inputs": {"past_key_names": "past.%d.key", "past_value_names": "past.%d.value"},
            "outputs": {"present_key_names": "now.%d.key", "present_value_names": "now.%d.value", "logits": "scores"},
        }
        sizes = {"num_attention_heads": 2, "num_key_value_heads": 2, "num_hidden_layers": 2, "head_size": 3}
        model = {"type": "toy", "vocab_size": VOCABULARY, "context_length": 40}
        config = {"model": {**model, "decoder": {"filename": "g.onnx", **sizes, **genai}}}
        return {"genai_config.json": config, "g.onnx": decoder(**names)}
    return {"model.onnx": decoder()}


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Open:
    opened: dict[str, StepGraph] = {}

    def graph(kind: str) -> StepGraph:
        if kind not in opened:
            folder = write_folder(tmp_path_factory.mktemp(kind), {"config.json": CONFIG, **_files(kind)})
            opened[kind] = StepGraph.open(open_bundle(folder), threads=1)
        return opened[kind]

    return graph


def _close(got: np.ndarray, ids: list[int], kind: str) -> bool:
    return bool(np.allclose(got, expected(ids), atol=3e-2 if kind == "half" else 1e-5))


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=15, deadline=None)
@given(
    runs=st.lists(st.one_of(TOKENS, st.lists(TOKENS, min_size=1, max_size=7), st.just(None)), max_size=6),
    chunk=st.integers(1, 5),
    data=st.data(),
)
def test_any_course_of_prefills_steps_and_rewinds_is_as_one_prefill(
    graph: Open, kind: str, runs: list[int | list[int] | None], chunk: int, data: st.DataObject
) -> None:
    sequence = ForeignDecoder(graph(kind), context_length=60, prefill_chunk=chunk)
    ids: list[int] = []
    for run in runs:
        if run is None:
            ids = ids[: data.draw(st.integers(0, len(ids)))]
            sequence.rewind(len(ids))
        elif isinstance(run, list):
            ids += run
            assert _close(sequence.prefill(run), ids, kind)
        else:
            ids.append(run)
            assert _close(sequence.step(run), ids, kind)
        assert sequence.length == len(ids)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=15, deadline=None)
@given(prompts=st.lists(st.lists(TOKENS, min_size=1, max_size=5), min_size=1, max_size=4), data=st.data())
def test_rows_of_a_batch_are_as_single_ones_however_they_are_selected(
    graph: Open, kind: str, prompts: list[list[int]], data: st.DataObject
) -> None:
    batch = ForeignBatch(graph(kind), context_length=60, prefill_chunk=3)
    rows = [list(prompt) for prompt in prompts]
    logits = batch.prefill(rows)
    for _ in range(3):
        assert all(_close(row, ids, kind) for row, ids in zip(logits, rows, strict=True))
        kept = data.draw(st.lists(st.integers(0, len(rows) - 1), min_size=1, max_size=5))
        batch.select(np.array(kept))
        tokens = data.draw(st.lists(TOKENS, min_size=len(kept), max_size=len(kept)))
        rows = [[*rows[row], token] for row, token in zip(kept, tokens, strict=True)]
        logits = batch.step(np.array(tokens))


def test_no_plan_is_kept_of_each_length_that_a_past_has(graph: Open) -> None:
    for session in (graph("pair")._first, graph("pair")._later):
        assert session._session is not None
        assert not session._session.get_session_options().enable_mem_pattern


def test_rows_that_cannot_be_placed_run_in_groups_of_one_length(graph: Open) -> None:
    assert graph("one").pads
    assert not graph("unplaced").pads


def test_a_present_becomes_the_next_past_without_a_copy(graph: Open) -> None:
    sequence = ForeignDecoder(graph("one"), context_length=60, prefill_chunk=8)
    sequence.prefill([1, 2, 3])
    tensors = sequence.cache._tensors  # type: ignore[attr-defined]
    assert all(tensor.array.ctypes.data == tensor.value.data_ptr() for tensor in tensors.values())
    assert {tensor.array.shape[2] for tensor in tensors.values()} == {3}


def test_logits_may_be_changed_by_the_caller(graph: Open) -> None:
    sequence = ForeignDecoder(graph("one"), context_length=60, prefill_chunk=8)
    sequence.prefill([1, 2])[:] = np.nan
    assert _close(sequence.step(3), [1, 2, 3], "one")


def test_the_context_window_ends(graph: Open) -> None:
    sequence = ForeignDecoder(graph("one"), context_length=3, prefill_chunk=8)
    with pytest.raises(ContextLengthError, match="4 tokens do not fit into a context window of 3"):
        sequence.prefill([1] * 4)
    sequence.prefill([1] * 3)
    with pytest.raises(ContextLengthError):
        sequence.step(1)
    batch = ForeignBatch(graph("one"), context_length=3, prefill_chunk=8)
    with pytest.raises(ContextLengthError):
        batch.prefill([[1] * 4])
    batch.prefill([[1, 1, 1], [1]])
    with pytest.raises(ContextLengthError):
        batch.step(np.array([1, 1]))


def test_a_cancelled_or_closed_sequence_ends(tmp_path: Path) -> None:
    folder = write_folder(tmp_path, {"config.json": CONFIG, "model.onnx": decoder()})
    graph = StepGraph.open(open_bundle(folder), threads=1)
    sequence = ForeignDecoder(graph, context_length=9, prefill_chunk=8)
    sequence.cancel()
    with pytest.raises(CancelledError):
        sequence.prefill([1])
    batch = ForeignBatch(graph, context_length=9, prefill_chunk=8)
    graph.close()
    with pytest.raises(ClosedError):
        batch.prefill([[1]])


@pytest.mark.parametrize("width", [VOCABULARY - 2, VOCABULARY + 2])
def test_logits_of_another_width_than_the_settings_say_are_refused(tmp_path: Path, width: int) -> None:
    made = decoder()
    made.graph.output[0].type.tensor_type.shape.dim[2].dim_param = "any"
    folder = write_folder(tmp_path, {"config.json": CONFIG | {"vocab_size": width}, "model.onnx": made})
    graph = StepGraph.open(open_bundle(folder), threads=1)
    batch = ForeignBatch(graph, context_length=9, prefill_chunk=8)
    with pytest.raises(ModelError, match=rf"logits of shape \(2, 1, {VOCABULARY}\) .* the vocabulary has {width}"):
        batch.prefill([[1], [2]])
    sequence = ForeignDecoder(graph, context_length=9, prefill_chunk=8)
    with pytest.raises(ModelError, match=f"the vocabulary has {width}"):
        sequence.prefill([1, 2])
    assert sequence.length == 0


SOURCES = [[1, 2, 3], [4, 5]]


def _source_encoder(path: Path, *names: str, masked: bool = True) -> SourceEncoder:
    """Its hidden states are the ids, and the types of their tokens."""
    dims = ("batch", "tokens")
    inputs = [helper.make_tensor_value_info(name, TensorProto.INT64, dims) for name in ("input_ids", *names)]
    added = ["input_ids", "token_type_ids"] if "token_type_ids" in names else ["input_ids"]
    nodes = [
        helper.make_node("Identity", ["first"], ["ids"])
        if len(added) == 1
        else helper.make_node("Add", ["first", "second"], ["ids"]),
        helper.make_node("Unsqueeze", ["ids", "axis"], ["last_hidden_state"]),
    ]
    casts = zip(added, ("first", "second"), strict=False)
    nodes = [helper.make_node("Cast", [name], [to], to=TensorProto.FLOAT) for name, to in casts] + nodes
    outputs = [helper.make_tensor_value_info("last_hidden_state", TensorProto.FLOAT, (*dims, 1))]
    path.write_bytes(model(nodes, inputs, outputs, {"axis": np.array([2])}).SerializeToString())
    return SourceEncoder(Session(path, threads=1), pad_token_id=7, masked=masked)


@pytest.mark.parametrize("names", [("attention_mask",), ("attention_mask", "token_type_ids")])
def test_sources_are_padded_and_of_the_first_type(tmp_path: Path, names: tuple[str, ...]) -> None:
    source = _source_encoder(tmp_path / "g.onnx", *names).encode(SOURCES, Switch())
    np.testing.assert_array_equal(source.hidden[:, :, 0], [[1, 2, 3], [4, 5, 7]])
    np.testing.assert_array_equal(source.mask, [[1, 1, 1], [1, 1, 0]])


@pytest.mark.parametrize(("names", "masked"), [((), True), (("attention_mask",), False)])
def test_without_a_mask_only_sources_of_one_length_run_together(
    tmp_path: Path, names: tuple[str, ...], masked: bool
) -> None:
    encoder = _source_encoder(tmp_path / "g.onnx", *names, masked=masked)
    with pytest.raises(UnsupportedModelError, match="takes no mask: only sources of one length can run together"):
        encoder.encode(SOURCES, Switch())
    hidden = encoder.encode([SOURCES[1], [8, 9]], Switch()).hidden
    np.testing.assert_array_equal(hidden[:, :, 0], [[4, 5], [8, 9]])


def test_a_rewind_beyond_the_end_is_refused(graph: Open) -> None:
    with pytest.raises(ValueError, match="cannot rewind a cache of 0 tokens to 1"):
        ForeignDecoder(graph("one"), context_length=9, prefill_chunk=8).rewind(1)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "pair"])
def test_verifying_takes_several_tokens_that_can_be_forgotten(graph: Open, kind: str) -> None:
    sequence = ForeignDecoder(graph(kind), context_length=12, prefill_chunk=4)
    assert sequence.verifies
    sequence.prefill([3, 4, 5])
    logits = sequence.verify([6, 7, 8])
    assert logits.shape == (3, VOCABULARY)
    assert _close(logits[-1], [3, 4, 5, 6, 7, 8], kind)  # these graphs add up a whole run, the other rows too
    sequence.rewind(4)
    assert _close(sequence.step(1), [3, 4, 5, 6, 1], kind)
    with pytest.raises(ContextLengthError):
        sequence.verify(range(8))


def test_graphs_that_take_a_token_at_a_time_do_not_verify(graph: Open) -> None:
    assert not ForeignDecoder(graph("pair"), context_length=12, prefill_chunk=4).verifies
