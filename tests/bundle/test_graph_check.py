from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from support.bundles import (
    GRAPH_NAME,
    WEIGHTS_NAME,
    TinyDecoder,
    decoder_manifest,
    seal,
    write_decoder_bundle,
    write_manifest,
)
from support.graph_refusals import check, manifest_of, refusal

from edgelm.bundle.graph_check import check_graph
from edgelm.bundle.manifest import Footprint
from edgelm.bundle.operators import ALLOWED_OPERATORS, operator_name
from edgelm.errors import ModelError


def test_a_sound_graph_is_described(tmp_path: Path) -> None:
    sizes = TinyDecoder(layers=3)
    info = check(write_decoder_bundle(tmp_path / "bundle", sizes))
    names = [value.name for value in info.inputs]
    assert names[:4] == ["input_ids", "seqlens_k", "total_sequence_length", "logit_index"]
    assert names[4:6] == ["past_key_values.0.key", "past_key_values.0.value"]
    assert len(names) == 4 + 2 * sizes.layers
    assert str(info.inputs[4]) == "float32 (B, 1, T, 16)"
    assert info.outputs[0].name == "logits"
    assert info.external_files == (WEIGHTS_NAME,)
    weights = onnx.load(tmp_path / "bundle" / GRAPH_NAME).graph.initializer
    assert info.weight_bytes == sum(numpy_helper.to_array(tensor).nbytes for tensor in weights)
    assert info.node_count == 5 + 10 * sizes.layers


def test_the_allow_list_holds_no_operator_that_runs_a_graph_or_code() -> None:
    allowed = set().union(*ALLOWED_OPERATORS.values())
    assert not allowed & {"If", "Loop", "Scan", "SequenceMap", "EPContext", "PyOp", "Expand", "ConstantOfShape"}
    assert set(ALLOWED_OPERATORS) == {"", "ai.onnx", "com.microsoft"}


def test_standard_operators_of_the_allow_list_exist() -> None:
    known = {schema.name for schema in onnx.defs.get_all_schemas()}
    assert ALLOWED_OPERATORS[""] - known == {"SimplifiedLayerNormalization"}


@pytest.mark.parametrize(
    ("domain", "operator", "shown"),
    [
        ("com.acme", "Evil", "com.acme.Evil"),
        ("ai.onnx.ml", "TreeEnsemble", "ai.onnx.ml.TreeEnsemble"),
        ("com.microsoft", "EPContext", "com.microsoft.EPContext"),
        ("", "Expand", "Expand"),
        ("", "Loop", "Loop"),
        ("", "Scan", "Scan"),
        ("", "matmul", "matmul"),
        ("", "", "''"),
        ("", "Bell\a", "'Bell\\x07'"),
    ],
)
def test_an_operator_off_the_list_is_refused(tmp_path: Path, domain: str, operator: str, shown: str) -> None:
    def edit(model: onnx.ModelProto) -> None:
        model.graph.node.append(helper.make_node(operator, ["logits"], ["more"], "culprit", domain=domain))

    text = refusal(tmp_path, edit)
    assert text == f"decoder.onnx: node 15 'culprit': {shown} is not an operator that EdgeLM runs"
    assert operator_name(domain, operator) == shown


def test_a_loop_of_2_to_the_62_is_refused(tmp_path: Path) -> None:
    def edit(model: onnx.ModelProto) -> None:
        body = helper.make_graph(
            [helper.make_node("Identity", ["go"], ["going"])],
            "body",
            [
                helper.make_tensor_value_info("step", TensorProto.INT64, []),
                helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            ],
            [helper.make_tensor_value_info("going", TensorProto.BOOL, [])],
        )
        model.graph.initializer.append(numpy_helper.from_array(np.array(2**62), "trips"))
        model.graph.node.append(helper.make_node("Loop", ["trips", ""], [], "forever", body=body))

    assert "'forever': Loop is not an operator that EdgeLM runs" in refusal(tmp_path, edit)


def test_a_graph_hidden_in_an_allowed_operator_is_refused(tmp_path: Path) -> None:
    def edit(model: onnx.ModelProto) -> None:
        model.graph.node[0].attribute.append(helper.make_attribute("body", helper.make_graph([], "g", [], [])))

    assert "Gather holds a graph of its own in attribute 'body'" in refusal(tmp_path, edit)


def test_a_function_of_the_model_is_refused(tmp_path: Path) -> None:
    def edit(model: onnx.ModelProto) -> None:
        node = helper.make_node("Loop", ["x"], ["y"])
        model.functions.append(helper.make_function("", "MatMul", ["x"], ["y"], [node], []))

    assert "defines the function MatMul" in refusal(tmp_path, edit)


def test_sparse_tensors_are_refused(tmp_path: Path) -> None:
    def in_graph(model: onnx.ModelProto) -> None:
        model.graph.sparse_initializer.add(dims=[1])

    def in_node(model: onnx.ModelProto) -> None:
        node = helper.make_node("Constant", [], ["c"], "spread")
        node.attribute.append(helper.make_attribute("sparse_value", onnx.SparseTensorProto(dims=[1])))
        model.graph.node.append(node)

    assert "sparse tensors" in refusal(tmp_path, in_graph)
    assert "'spread': Constant holds a sparse tensor" in refusal(tmp_path, in_node)


@pytest.mark.parametrize("data", [b"", b"\0", b"{}", b"GGUF" + b"\0" * 60])
def test_a_graph_file_that_is_no_onnx_is_refused(tmp_path: Path, data: bytes) -> None:
    folder = write_decoder_bundle(tmp_path / "bundle")
    (folder / GRAPH_NAME).write_bytes(data)
    with pytest.raises(ModelError, match=r"decoder\.onnx: not a valid ONNX file"):
        check(seal(folder))


def test_the_runtimes_own_format_is_refused(tmp_path: Path) -> None:
    """ONNX Runtime tells it by these bytes, which ONNX may have in a producer's name: one file would be two graphs."""
    folder = write_decoder_bundle(tmp_path / "bundle")
    model = onnx.load(folder / GRAPH_NAME, load_external_data=False)
    model.producer_name = "ORTM"
    onnx.save(model, folder / GRAPH_NAME)
    assert (folder / GRAPH_NAME).read_bytes()[4:8] == b"ORTM"
    with pytest.raises(ModelError, match=r"^decoder\.onnx: in ONNX Runtime's own format \(ORT\)"):
        check(seal(folder))


def test_a_graph_that_the_manifest_does_not_list_is_refused(tmp_path: Path) -> None:
    folder = write_decoder_bundle(tmp_path / "bundle")
    with pytest.raises(ModelError, match="not in the manifest's files"):
        check_graph(folder, "../other.onnx", manifest_of(folder))


def test_another_familys_graph_has_its_own_inputs(tmp_path: Path) -> None:
    inputs = [
        helper.make_tensor_value_info(name, TensorProto.INT64, ["B", "S"]) for name in ("input_ids", "attention_mask")
    ]
    hidden = helper.make_tensor_value_info("last_hidden_state", TensorProto.FLOAT, ["B", "S", 4])
    cast = helper.make_node("Cast", ["input_ids"], ["last_hidden_state"], to=TensorProto.FLOAT)
    graph = helper.make_graph([cast], "g", inputs, [hidden])
    tmp_path.joinpath("encoder.onnx").write_bytes(helper.make_model(graph).SerializeToString())
    graphs, tasks = {"encoder": "encoder.onnx"}, ("feature-extraction",)
    write_manifest(tmp_path, decoder_manifest(), family="encoder", tasks=tasks, graphs=graphs, kv=None)
    info = check_graph(tmp_path, "encoder.onnx", manifest_of(tmp_path))
    assert [str(info.inputs[0]), info.external_files, info.weight_bytes] == ["int64 (B, S)", (), 0]


WIDE = TinyDecoder(hidden=256, ffn=512)


def with_footprint(folder: Path, **sizes: int) -> Path:
    sizes = {"hidden_size": 1, "intermediate_size": 1, "heads": 1, "head_size": 1, **sizes}
    return write_decoder_bundle(folder, WIDE, footprint=Footprint(**sizes, attention="blocks"))


def test_a_footprint_narrower_than_both_sides_of_a_matrix_is_refused(tmp_path: Path) -> None:
    reason = "decoder.onnx: has weights with 256 rows and columns or more, but by the manifest's footprint no layer is"
    with pytest.raises(ModelError, match=f"{reason} wider than 1$"):
        check(with_footprint(tmp_path / "bundle"))


@pytest.mark.parametrize("sizes", [{"hidden_size": 256}, {"intermediate_size": 512}, {"heads": 8, "head_size": 32}])
def test_any_width_of_a_footprint_may_be_that_of_a_matrix(tmp_path: Path, sizes: dict[str, int]) -> None:
    assert check(with_footprint(tmp_path / "bundle", **sizes)).width == 256


def test_blocks_of_a_matrix_have_its_rows(tmp_path: Path) -> None:
    def edit(model: onnx.ModelProto) -> None:
        blocks = np.zeros((300, 12, 32), np.uint8)
        model.graph.initializer.append(numpy_helper.from_array(blocks, "blocks"))

    assert check(write_decoder_bundle(tmp_path / "bundle", edit=edit)).width == 300
