from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import TensorProto, helper
from support.encoder_bundle import GRAPH_NAME, TinyEncoder, encoder_manifest, write_encoder_bundle
from support.graph_refusals import Edit

from edgelm.bundle.bundle import open_bundle
from edgelm.bundle.encoder_contract import ENCODER_TASKS, check_cross_encoder, encoder_outputs, encoder_task
from edgelm.bundle.manifest import KVGeometry, Manifest, RecurrentState
from edgelm.bundle.onnx_model import ValueInfo
from edgelm.errors import ModelError

FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64


def refusal(folder: Path, edit: Edit | None = None, task: str = "feature-extraction", **changes: Any) -> str:
    write_encoder_bundle(folder, TinyEncoder(task=task), edit=edit, **changes)
    with pytest.raises(ModelError) as caught:
        open_bundle(folder)
    return str(caught.value)


@pytest.mark.parametrize("task", ENCODER_TASKS)
def test_every_head_opens(tmp_path: Path, task: str) -> None:
    bundle = open_bundle(write_encoder_bundle(tmp_path / "a", TinyEncoder(task=task)))
    assert encoder_task(bundle.manifest) == task
    assert {value.name for value in bundle.graphs["encoder"].outputs} == set(encoder_outputs(bundle.manifest))


def test_a_model_without_token_types_opens(tmp_path: Path) -> None:
    open_bundle(write_encoder_bundle(tmp_path / "a", TinyEncoder(token_types=False)))


@pytest.mark.parametrize("name", ["input_ids", "attention_mask", "last_hidden_state"])
def test_a_missing_or_ill_typed_value_is_named(tmp_path: Path, name: str) -> None:
    def values(model: onnx.ModelProto) -> list[onnx.ValueInfoProto]:
        return [value for value in (*model.graph.input, *model.graph.output) if value.name == name]

    def rename(model: onnx.ModelProto) -> None:
        values(model)[0].name = "other"

    def retype(model: onnx.ModelProto) -> None:
        values(model)[0].type.tensor_type.elem_type = TensorProto.INT32

    def fix(model: onnx.ModelProto) -> None:
        values(model)[0].type.tensor_type.shape.dim[0].dim_value = 1

    assert f"{name} is missing" in refusal(tmp_path / "a", rename)
    assert f"{name} must be " in refusal(tmp_path / "b", retype)
    assert f"{name} must be " in refusal(tmp_path / "c", fix)


def test_an_input_that_nothing_would_feed_is_refused(tmp_path: Path) -> None:
    def add(model: onnx.ModelProto) -> None:
        model.graph.input.append(helper.make_tensor_value_info("pixels", FLOAT, ["batch"]))

    assert "input 'pixels' is not one that EdgeLM can feed to an encoder" in refusal(tmp_path / "a", add)


def test_logits_have_the_head_s_width_or_leave_it_open(tmp_path: Path) -> None:
    def narrow(model: onnx.ModelProto) -> None:
        model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 2

    def leave_open(model: onnx.ModelProto) -> None:
        model.graph.output[0].type.tensor_type.shape.dim[1].dim_param = "labels"

    expected = "output logits must be float32 (batch, 3), not 'float32 (batch, 2)'"
    assert expected in refusal(tmp_path / "a", narrow, "text-classification")
    open_bundle(write_encoder_bundle(tmp_path / "b", TinyEncoder(task="text-classification"), edit=leave_open))


def test_tasks_and_head_must_go_together(tmp_path: Path) -> None:
    assert "gives no head, which the task text-classification needs" in refusal(
        tmp_path / "a", task="text-classification", head=None
    )
    assert "tasks must have one of feature-extraction, text-classification" in refusal(
        tmp_path / "b", tasks=("text-generation",)
    )


def cross_values(heads: int | str = 3, size: int | str | None = 8) -> tuple[ValueInfo, ...]:
    return tuple(
        ValueInfo(f"cross_key_values.{layer}.{part}", FLOAT, ("batch", heads, "source", size))
        for layer in range(2)
        for part in ("key", "value")
    )


INPUTS = tuple(ValueInfo(name, INT64, ("batch", "sequence")) for name in ("input_ids", "attention_mask"))
DECODER = replace(
    encoder_manifest(), family="encoder-decoder", kv=KVGeometry(2, 3, 8), graphs={"encoder": GRAPH_NAME, "decoder": "d"}
)


@pytest.mark.parametrize("manifest", [DECODER, replace(DECODER, kv=None, state=RecurrentState(2, 16))])
def test_an_encoder_for_a_decoder_gives_each_layer_its_keys_and_values(manifest: Manifest) -> None:
    check_cross_encoder(INPUTS, cross_values(), graph_file="e", manifest=manifest)
    with pytest.raises(ModelError, match=r"e: output cross_key_values\.1\.value is missing"):
        check_cross_encoder(INPUTS, cross_values()[:3], graph_file="e", manifest=manifest)
    with pytest.raises(ModelError, match="must state heads and head size"):
        check_cross_encoder(INPUTS, cross_values("heads"), graph_file="e", manifest=manifest)
    with pytest.raises(ModelError, match="must state heads and head size"):
        check_cross_encoder(INPUTS, cross_values(size=None), graph_file="e", manifest=manifest)
    flat = tuple(value._replace(dims=("batch", "source", 24)) for value in cross_values())
    with pytest.raises(ModelError, match=r"must be float32 \(batch, \?, source, \?\)"):
        check_cross_encoder(INPUTS, flat, graph_file="e", manifest=manifest)
    with pytest.raises(ModelError, match="e: input attention_mask is missing"):
        check_cross_encoder(INPUTS[:1], cross_values(), graph_file="e", manifest=manifest)


def test_a_decoder_without_geometry_is_refused() -> None:
    with pytest.raises(ModelError, match="neither kv geometry nor state"):
        check_cross_encoder(INPUTS, cross_values(), graph_file="e", manifest=replace(DECODER, kv=None))
