"""One forward pass over rows of different lengths."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from support.encoder_bundle import GRAPH_NAME, LABELS, VOCABULARY, TinyEncoder, write_encoder_bundle
from support.foreign_graphs import model

from edgelm.errors import ClosedError, ModelError
from edgelm.runtime.encoder import Encoder
from edgelm.runtime.session import Session

RANDOM = np.random.default_rng(1)
ROWS = [RANDOM.integers(5, len(VOCABULARY), n).tolist() for n in (9, 1, 4)]
TYPES = [[0] * 5 + [1] * 4, [0], [1] * 4]
OUTPUTS = {
    "feature-extraction": {"last_hidden_state": (3, 9, 24)},
    "text-classification": {"logits": (3, len(LABELS))},
    "token-classification": {"logits": (3, 9, len(LABELS))},
    "fill-mask": {"logits": (3, 9, len(VOCABULARY))},
    "question-answering": {"start_logits": (3, 9), "end_logits": (3, 9)},
}


def session(folder: Path, sizes: TinyEncoder) -> Session:
    return Session(write_encoder_bundle(folder, sizes) / GRAPH_NAME, threads=1)


@pytest.fixture(scope="module", params=OUTPUTS)
def encoder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Encoder]:
    opened = session(tmp_path_factory.mktemp("encoder"), TinyEncoder(task=request.param))
    made = Encoder(opened, list(OUTPUTS[request.param]))
    yield made
    opened.close()


def test_a_padded_batch_equals_single_rows(encoder: Encoder) -> None:
    batch = encoder.run(ROWS, TYPES)
    assert {name: array.shape for name, array in batch.items()} in OUTPUTS.values()
    for index, (row, types) in enumerate(zip(ROWS, TYPES, strict=True)):
        for name, alone in encoder.run([row], [types]).items():
            together = batch[name][index, : len(row)] if encoder.is_per_token(name) else batch[name][index]
            np.testing.assert_allclose(together, alone[0], rtol=1e-4, atol=1e-5)


def test_types_matter_and_are_0_unless_given(encoder: Encoder) -> None:
    zeros = [[0] * len(row) for row in ROWS]
    name = next(iter(encoder.run(ROWS)))
    np.testing.assert_array_equal(encoder.run(ROWS)[name][0], encoder.run(ROWS, zeros)[name][0])
    assert not np.allclose(encoder.run(ROWS)[name][0], encoder.run(ROWS, TYPES)[name][0])


def test_memory_is_given_back_without_a_difference(encoder: Encoder) -> None:
    kept, shrunk = encoder.run(ROWS, TYPES), encoder.run(ROWS, TYPES, shrink=True)
    for name, array in kept.items():
        np.testing.assert_array_equal(array[0], shrunk[name][0])


def test_a_graph_without_types_is_fed_none(tmp_path: Path) -> None:
    opened = session(tmp_path, TinyEncoder(token_types=False))
    encoder = Encoder(opened, ["last_hidden_state"])
    assert not encoder.takes_types
    assert encoder.run(ROWS, TYPES)["last_hidden_state"].shape == (3, 9, 24)
    opened.close()


def test_without_a_mask_padding_does_not_count(tmp_path: Path) -> None:
    """The graph adds the mean over all tokens to each: what padding is there would be part of it."""
    table = np.random.default_rng(2).standard_normal((20, 4)).astype(np.float32)
    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["rows"]),
        helper.make_node("ReduceMean", ["rows", "axis"], ["mean"]),
        helper.make_node("Add", ["rows", "mean"], ["last_hidden_state"]),
        helper.make_node("ReduceSum", ["rows", "axis"], ["logits"], keepdims=0),
    ]
    inputs = [helper.make_tensor_value_info("input_ids", TensorProto.INT64, ("batch", "sequence"))]
    outputs = [
        helper.make_tensor_value_info("last_hidden_state", TensorProto.FLOAT, ("batch", "sequence", 4)),
        helper.make_tensor_value_info("logits", TensorProto.FLOAT, ("batch", 4)),
    ]
    (tmp_path / "g.onnx").write_bytes(
        model(nodes, inputs, outputs, {"table": table, "axis": np.array([1])}).SerializeToString()
    )
    opened = Session(tmp_path / "g.onnx", threads=1)
    encoder = Encoder(opened, ["last_hidden_state", "logits"])
    rows = [[3, 4, 5], [6], [7, 8, 9], [10, 11]]
    together = encoder.run(rows)
    assert together["last_hidden_state"].shape == (4, 3, 4)
    for place, row in enumerate(rows):
        expected = table[row] + table[row].mean(axis=0)
        np.testing.assert_allclose(together["last_hidden_state"][place, : len(row)], expected, rtol=1e-5)
        np.testing.assert_allclose(together["logits"][place], table[row].sum(axis=0), rtol=1e-5)
    opened.close()


def test_finding_out_a_size_needs_no_type_that_a_model_may_not_have(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["rows"]),
        helper.make_node("Gather", ["one_type", "token_type_ids"], ["types"]),
        helper.make_node("Add", ["rows", "types"], ["sum"]),
        helper.make_node("Compress", ["sum", "every"], ["last_hidden_state"], axis=2),
    ]
    names = ("input_ids", "attention_mask", "token_type_ids")
    inputs = [helper.make_tensor_value_info(name, TensorProto.INT64, ("batch", "sequence")) for name in names]
    output = helper.make_tensor_value_info("last_hidden_state", TensorProto.FLOAT, ("batch", "sequence", "hidden"))
    constants = {"table": np.ones((1, 4), np.float32), "one_type": np.ones((1, 4), np.float32)}
    every = {"every": np.ones(4, np.bool_)}
    (tmp_path / "g.onnx").write_bytes(model(nodes, inputs, [output], constants | every).SerializeToString())
    opened = Session(tmp_path / "g.onnx", threads=1)
    assert Encoder(opened, ["last_hidden_state"]).width("last_hidden_state") == 4
    opened.close()


@pytest.mark.parametrize("name", ["any", None])
def test_a_size_that_the_graph_leaves_open_is_found_out(tmp_path: Path, name: str | None) -> None:
    def leave_open(graph: onnx.ModelProto) -> None:
        # What the library can infer it tells after all: the last axis of a Compress it cannot.
        hidden = graph.graph.output[0]
        every = numpy_helper.from_array(np.ones(24, np.bool_), "every")
        graph.graph.initializer.append(every)
        for node in graph.graph.node:
            node.output[:] = ["whole" if made == hidden.name else made for made in node.output]
        graph.graph.node.append(helper.make_node("Compress", ["whole", "every"], [hidden.name], axis=2))
        for dim in hidden.type.tensor_type.shape.dim:
            dim.Clear()
            if name is not None:
                dim.dim_param = name

    folder = write_encoder_bundle(tmp_path, TinyEncoder(), edit=leave_open)
    opened = Session(folder / GRAPH_NAME, threads=1)
    encoder = Encoder(opened, ["last_hidden_state"])
    assert encoder.width("last_hidden_state") == 24
    assert encoder.output_bytes() == 96
    assert encoder.run(ROWS)["last_hidden_state"].shape == (3, 9, 24)
    opened.close()


def test_an_output_that_is_not_there_is_named(tmp_path: Path) -> None:
    opened = session(tmp_path, TinyEncoder())
    with pytest.raises(ModelError, match="the graph has no output logits"):
        Encoder(opened, ["logits"])
    opened.close()


def test_after_close_it_says_so(tmp_path: Path) -> None:
    opened = session(tmp_path, TinyEncoder())
    encoder = Encoder(opened, ["last_hidden_state"])
    opened.close()
    encoder.cancel()
    with pytest.raises(ClosedError):
        encoder.run(ROWS)
