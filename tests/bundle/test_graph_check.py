import os
from collections.abc import Callable
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

from edgelm.bundle.graph_check import GraphInfo, check_graph
from edgelm.bundle.manifest import MANIFEST_NAME, Manifest, parse_manifest
from edgelm.bundle.operators import ALLOWED_OPERATORS, operator_name
from edgelm.errors import IntegrityError, ModelError

Edit = Callable[[onnx.ModelProto], None]


def manifest_of(folder: Path) -> Manifest:
    return parse_manifest((folder / MANIFEST_NAME).read_bytes())


def check(folder: Path) -> GraphInfo:
    return check_graph(folder, GRAPH_NAME, manifest_of(folder))


def refusal(tmp_path: Path, edit: Edit) -> str:
    folder = write_decoder_bundle(tmp_path / "bundle", edit=edit)
    with pytest.raises(ModelError) as caught:
        check(folder)
    assert str(caught.value).startswith(f"{GRAPH_NAME}: ")
    assert "\n" not in str(caught.value)
    return str(caught.value)


def weight(model: onnx.ModelProto, name: str) -> TensorProto:
    return next(tensor for tensor in model.graph.initializer if tensor.name == name)


def place(model: onnx.ModelProto, name: str, **entries: object) -> None:
    """Changes where a weight lies."""
    tensor = weight(model, name)
    values = {entry.key: entry.value for entry in tensor.external_data} | {k: str(v) for k, v in entries.items()}
    del tensor.external_data[:]
    for key, value in values.items():
        tensor.external_data.add(key=key, value=value)


def place_of(model: onnx.ModelProto, name: str) -> dict[str, int | str]:
    entries = {entry.key: entry.value for entry in weight(model, name).external_data}
    return {"location": entries["location"], "offset": int(entries["offset"]), "length": int(entries["length"])}


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


# Operators


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


# Weights


@pytest.mark.parametrize(
    ("location", "reason"),
    [
        ("../secret", "which is not a safe file name"),
        ("/etc/passwd", "which is not a safe file name"),
        ("a\\..\\b", "which is not a safe file name"),
        ("w\0.data", "which is not a safe file name: it has a control character"),
        ("*/_ORT_MEM_ADDR_/*", "which is not a safe file name"),
        ("", "which is not a safe file name: it is empty"),
        ("other.data", "which the manifest does not list"),
        ("edgelm.json", "which the manifest does not list"),
    ],
)
def test_weights_outside_the_listed_files_are_refused(tmp_path: Path, location: str, reason: str) -> None:
    text = refusal(tmp_path, lambda model: place(model, "head", location=location))
    assert "tensor 'head' lies in " in text
    assert reason in text


@pytest.mark.parametrize(
    ("entries", "reason"),
    [
        ({"offset": -64}, "tensor 'head' begins at the negative offset -64 of decoder.onnx.data"),
        ({"offset": 2**62}, f"tensor 'head' ends at byte {2**62 + 2048} of decoder.onnx.data, which has"),
        ({"offset": 9 * 10**18}, "tensor 'head' ends at byte 9000000000000002048"),
        ({"length": -1}, "tensor 'head' has -1 bytes in decoder.onnx.data, but its shape needs 2048"),
        ({"length": 2**62}, "but its shape needs 2048"),
        ({"length": 2047}, "tensor 'head' has 2047 bytes in decoder.onnx.data, but its shape needs 2048"),
        ({"length": "much"}, "length 'much' in the external data of tensor 'head'"),
    ],
)
def test_offsets_and_lengths_out_of_range_are_refused(tmp_path: Path, entries: dict[str, object], reason: str) -> None:
    assert reason in refusal(tmp_path, lambda model: place(model, "head", **entries))


def test_overlapping_weights_are_refused(tmp_path: Path) -> None:
    def edit(model: onnx.ModelProto) -> None:
        place(model, "head", offset=int(place_of(model, "embeddings")["offset"]) + 64)

    text = refusal(tmp_path, edit)
    assert "tensors 'embeddings' and 'head' overlap at byte " in text
    assert text.endswith(f" of {WEIGHTS_NAME}")


def test_two_tensors_may_share_one_place(tmp_path: Path) -> None:
    def edit(model: onnx.ModelProto) -> None:
        place(model, "head", **place_of(model, "embeddings"))

    shared = check(write_decoder_bundle(tmp_path / "shared", edit=edit))
    own = check(write_decoder_bundle(tmp_path / "own"))
    assert own.weight_bytes - shared.weight_bytes == 4 * 32 * 16


def test_a_missing_length_means_what_the_shape_needs(tmp_path: Path) -> None:
    def edit(model: onnx.ModelProto) -> None:
        entries = weight(model, "head").external_data
        del entries[next(i for i, entry in enumerate(entries) if entry.key == "length")]

    assert check(write_decoder_bundle(tmp_path / "bundle", edit=edit)).external_files == (WEIGHTS_NAME,)


@pytest.mark.parametrize(
    ("dtype", "dims", "size"),
    [
        (TensorProto.INT4, [3, 3], 5),
        (TensorProto.UINT4, [32], 16),
        (TensorProto.INT2, [5], 2),
        (TensorProto.FLOAT16, [3], 6),
        (TensorProto.UINT8, [0], 0),
        (TensorProto.DOUBLE, [], 8),
    ],
)
def test_sizes_of_packed_and_plain_types(tmp_path: Path, dtype: int, dims: list[int], size: int) -> None:
    def edit(model: onnx.ModelProto, length: int) -> None:
        tensor = TensorProto(name="extra", data_type=dtype, dims=dims, data_location=TensorProto.EXTERNAL)
        for key, value in {"location": "extra.data", "offset": 0, "length": length}.items():
            tensor.external_data.add(key=key, value=str(value))
        model.graph.initializer.append(tensor)

    extra = {"extra.data": b"\0" * 16}
    check(write_decoder_bundle(tmp_path / "right", edit=lambda model: edit(model, size), files=extra))
    wrong = write_decoder_bundle(tmp_path / "wrong", edit=lambda model: edit(model, size + 1), files=extra)
    with pytest.raises(ModelError, match=f"has {size + 1} bytes in extra.data, but its shape needs {size}"):
        check(wrong)


@pytest.mark.parametrize(
    ("tensor", "reason"),
    [
        (TensorProto(name="t", data_type=1, dims=[-1], raw_data=b""), "negative dimension"),
        (TensorProto(name="t", data_type=1, dims=[-1, -4], raw_data=b"\0" * 16), "negative dimension"),
        (TensorProto(name="t", data_type=0, dims=[1], raw_data=b"\0"), "element type 0"),
        (TensorProto(name="t", data_type=77, dims=[1], raw_data=b"\0"), "element type 77"),
        (TensorProto(name="t", data_type=8, dims=[1], string_data=[b"x"]), "element type 8"),
        (TensorProto(name="t", data_type=1, dims=[2], raw_data=b"\0" * 7), "7 bytes of data, but its shape needs 8"),
        (TensorProto(name="t", data_type=1, dims=[2**34], float_data=[0.0]), "4 bytes of data, too few for the shape"),
        (TensorProto(name="t", data_type=1, dims=[2**34]), "0 bytes of data, too few for the shape"),
        (TensorProto(name="t", data_type=7, dims=[2**62, 2**62], int64_data=[1]), "too few for the shape"),
    ],
)
def test_a_tensor_whose_data_does_not_fit_its_shape_is_refused(
    tmp_path: Path, tensor: TensorProto, reason: str
) -> None:
    def as_initializer(model: onnx.ModelProto) -> None:
        model.graph.initializer.append(tensor)

    def as_constant(model: onnx.ModelProto) -> None:
        model.graph.node.append(helper.make_node("Constant", [], ["c"], value=tensor))

    assert "tensor 't' has " in refusal(tmp_path / "a", as_initializer)
    assert reason in refusal(tmp_path / "b", as_constant)


def test_a_constant_may_not_lie_outside_either(tmp_path: Path) -> None:
    def edit(model: onnx.ModelProto) -> None:
        tensor = TensorProto(name="t", data_type=1, dims=[1], data_location=TensorProto.EXTERNAL)
        tensor.external_data.add(key="location", value="../secret")
        model.graph.node.append(helper.make_node("Constant", [], ["c"], value=tensor))

    assert "tensor 't' lies in '../secret', which is not a safe file name" in refusal(tmp_path, edit)


@pytest.mark.parametrize("name", [WEIGHTS_NAME, GRAPH_NAME])
def test_links_for_files_are_refused(tmp_path: Path, name: str) -> None:
    folder = write_decoder_bundle(tmp_path / "bundle")
    (folder / name).rename(tmp_path / "elsewhere")
    (folder / name).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(IntegrityError, match=f"{name} in .* is a symbolic link"):
        check(folder)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no named pipes")
def test_a_pipe_for_a_graph_does_not_hang(tmp_path: Path) -> None:
    folder = write_decoder_bundle(tmp_path / "bundle")
    (folder / GRAPH_NAME).unlink()
    os.mkfifo(folder / GRAPH_NAME)
    with pytest.raises(IntegrityError, match="not a regular file"):
        check(folder)


def test_a_weight_file_of_another_size_is_refused_with_both(tmp_path: Path) -> None:
    folder = write_decoder_bundle(tmp_path / "bundle")
    size = (folder / WEIGHTS_NAME).stat().st_size
    os.truncate(folder / WEIGHTS_NAME, size - 1)
    with pytest.raises(IntegrityError, match=f"has {size - 1} bytes, not the {size} of the manifest"):
        check(folder)


@pytest.mark.parametrize("data", [b"", b"\0", b"{}", b"GGUF" + b"\0" * 60])
def test_a_graph_file_that_is_no_onnx_is_refused(tmp_path: Path, data: bytes) -> None:
    folder = write_decoder_bundle(tmp_path / "bundle")
    (folder / GRAPH_NAME).write_bytes(data)
    with pytest.raises(ModelError, match=r"decoder\.onnx: not a valid ONNX file"):
        check(seal(folder))


def test_a_graph_that_the_manifest_does_not_list_is_refused(tmp_path: Path) -> None:
    folder = write_decoder_bundle(tmp_path / "bundle")
    with pytest.raises(ModelError, match="not in the manifest's files"):
        check_graph(folder, "../other.onnx", manifest_of(folder))


# Inputs and outputs of a decoder


def value(values: list[onnx.ValueInfoProto], name: str) -> onnx.ValueInfoProto:
    return next(value for value in values if value.name == name)


INPUTS = ["input_ids", "seqlens_k", "total_sequence_length", "logit_index"]
CACHE_IN = ["past_key_values.0.key", "past_key_values.0.value"]
CACHE_OUT = ["present.0.key", "present.0.value"]


@pytest.mark.parametrize(
    ("kind", "name"), [("input", name) for name in INPUTS + CACHE_IN] + [("output", n) for n in ["logits", *CACHE_OUT]]
)
def test_a_missing_input_or_output_is_named(tmp_path: Path, kind: str, name: str) -> None:
    def remove(model: onnx.ModelProto) -> None:
        values = model.graph.input if kind == "input" else model.graph.output
        values.remove(value(values, name))

    def retype(model: onnx.ModelProto) -> None:
        values = model.graph.input if kind == "input" else model.graph.output
        value(values, name).type.tensor_type.elem_type = TensorProto.BOOL

    def unshape(model: onnx.ModelProto) -> None:
        values = model.graph.input if kind == "input" else model.graph.output
        value(values, name).type.tensor_type.ClearField("shape")

    assert refusal(tmp_path / "a", remove) == f"decoder.onnx: {kind} {name} is missing"
    assert f"{kind} {name} must be " in refusal(tmp_path / "b", retype)
    assert f"{kind} {name} must be " in refusal(tmp_path / "c", unshape)


@pytest.mark.parametrize(
    ("name", "dims", "message"),
    [
        ("past_key_values.0.key", ["B", 1, "T"], "must be float32 (B, 1, T, 16), not 'float32 (B, 1, T)'"),
        ("past_key_values.0.value", ["B", 2, "T", 16], "must be float32 (B, 1, T, 16), not 'float32 (B, 2, T, 16)'"),
        ("past_key_values.0.value", ["B", 1, "T", 8], "must be float32 (B, 1, T, 16), not 'float32 (B, 1, T, 8)'"),
        ("past_key_values.0.key", ["B", "H", "T", 16], "must be float32 (B, 1, T, 16), not 'float32 (B, H, T, 16)'"),
        ("input_ids", ["S"], "must be int64 (B, S), not 'int64 (S)'"),
        ("seqlens_k", ["B", 1], "must be int32 (B), not 'int32 (B, 1)'"),
        ("total_sequence_length", [1], "must be int32 (), not 'int32 (1)'"),
        ("present.0.key", ["B", 1, "T", 32], "must be float32 (B, 1, T, 16), not 'float32 (B, 1, T, 32)'"),
        ("logits", ["R", 31], "must be float32 (R, 32), not 'float32 (R, 31)'"),
        ("logits", ["R", "V"], "must be float32 (R, 32), not 'float32 (R, V)'"),
        ("logits", ["B", "S", 32], "must be float32 (R, 32), not 'float32 (B, S, 32)'"),
    ],
)
def test_an_ill_shaped_input_or_output_is_named(tmp_path: Path, name: str, dims: list[int | str], message: str) -> None:
    def edit(model: onnx.ModelProto) -> None:
        old = value([*model.graph.input, *model.graph.output], name)
        old.CopyFrom(helper.make_tensor_value_info(name, old.type.tensor_type.elem_type, dims))

    text = refusal(tmp_path, edit)
    assert f" {name} {message}" in text


def test_a_vocabulary_of_another_width_than_the_logits_is_refused(tmp_path: Path) -> None:
    folder = write_decoder_bundle(tmp_path / "bundle", vocab_size=48)
    with pytest.raises(ModelError, match=r"output logits must be float32 \(R, 48\), not 'float32 \(R, 32\)'"):
        check(folder)


def test_an_input_that_nothing_feeds_is_refused(tmp_path: Path) -> None:
    def edit(model: onnx.ModelProto) -> None:
        model.graph.input.append(helper.make_tensor_value_info("mood", TensorProto.FLOAT, [1]))

    assert refusal(tmp_path, edit) == "decoder.onnx: input 'mood' is not one that EdgeLM can feed to a decoder"


def test_a_repeated_input_or_output_is_refused(tmp_path: Path) -> None:
    assert "input 'input_ids' occurs twice" in refusal(tmp_path / "a", lambda m: m.graph.input.append(m.graph.input[0]))
    assert "output 'logits' occurs twice" in refusal(tmp_path / "b", lambda m: m.graph.output.append(m.graph.output[0]))


def test_weights_among_the_inputs_are_not_inputs(tmp_path: Path) -> None:
    def edit(model: onnx.ModelProto) -> None:
        model.graph.input.append(helper.make_tensor_value_info("head", TensorProto.FLOAT, [16, 32]))

    info = check(write_decoder_bundle(tmp_path / "bundle", edit=edit))
    assert "head" not in [value.name for value in info.inputs]


def test_further_outputs_are_allowed(tmp_path: Path) -> None:
    def edit(model: onnx.ModelProto) -> None:
        model.graph.output.append(helper.make_tensor_value_info("rows", TensorProto.FLOAT, ["N", 16]))

    assert check(write_decoder_bundle(tmp_path / "bundle", edit=edit)).outputs[-1].name == "rows"


def test_another_familys_graph_has_its_own_inputs(tmp_path: Path) -> None:
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["B", 4])
    graph = helper.make_graph([helper.make_node("Tanh", ["x"], ["y"])], "g", [x], [x.__deepcopy__()])
    graph.output[0].name = "y"
    tmp_path.joinpath("encoder.onnx").write_bytes(helper.make_model(graph).SerializeToString())
    write_manifest(tmp_path, decoder_manifest(), family="encoder", graphs={"encoder": "encoder.onnx"}, kv=None)
    info = check_graph(tmp_path, "encoder.onnx", manifest_of(tmp_path))
    assert [str(info.inputs[0]), info.external_files, info.weight_bytes] == ["float32 (B, 4)", (), 0]
