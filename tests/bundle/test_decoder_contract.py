from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper
from support.bundles import TinyDecoder, write_decoder_bundle
from support.graph_refusals import check, refusal

from edgelm.errors import ModelError


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


def test_positions_are_an_input_that_a_graph_may_have(tmp_path: Path) -> None:
    sizes = TinyDecoder(learned_positions=True)
    assert "position_ids" in [value.name for value in check(write_decoder_bundle(tmp_path / "right", sizes)).inputs]

    def flatten(model: onnx.ModelProto) -> None:
        old = value(model.graph.input, "position_ids")
        old.CopyFrom(helper.make_tensor_value_info("position_ids", TensorProto.INT64, ["S"]))

    with pytest.raises(ModelError, match=r"input position_ids must be int64 \(B, S\), not 'int64 \(S\)'"):
        check(write_decoder_bundle(tmp_path / "wrong", sizes, edit=flatten))


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
