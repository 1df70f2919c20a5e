"""What the decoder of an encoder-decoder must take and give, with a recurrent state and with a cache."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper
from support.bundles import write_manifest
from support.recurrent_graph import RecurrentWeights, recurrent_manifest, write_recurrent_graphs

from edgelm.bundle.bundle import Bundle, open_bundle
from edgelm.bundle.cross_decoder_contract import check_cross_decoder
from edgelm.bundle.manifest import KVGeometry
from edgelm.bundle.onnx_model import ValueInfo
from edgelm.errors import ModelError

FLOAT, INT32, INT64 = TensorProto.FLOAT, TensorProto.INT32, TensorProto.INT64
Edit = Callable[[onnx.ModelProto], None]

RECURRENT = [
    *(("input", name) for name in ("input_ids", "encoder_attention_mask", "state.0")),
    *(("input", f"cross_key_values.0.{part}") for part in ("key", "value")),
    *(("output", name) for name in ("logits", "next_state.0")),
]


def opened(folder: Path, edit: Edit | None = None) -> Bundle:
    write_recurrent_graphs(folder, RecurrentWeights.random())
    if edit is not None:
        model = onnx.load(folder / "decoder.onnx")
        edit(model)
        (folder / "decoder.onnx").write_bytes(model.SerializeToString())
    return open_bundle(write_manifest(folder, recurrent_manifest()))


def refusal(folder: Path, edit: Edit) -> str:
    with pytest.raises(ModelError) as caught:
        opened(folder, edit)
    assert str(caught.value).startswith("decoder.onnx: ")
    return str(caught.value)


def of(model: onnx.ModelProto, name: str) -> onnx.ValueInfoProto:
    return next(value for value in (*model.graph.input, *model.graph.output) if value.name == name)


def test_a_recurrent_decoder_opens(tmp_path: Path) -> None:
    assert {value.name for value in opened(tmp_path).graphs["decoder"].outputs} == {"logits", "next_state.0"}


@pytest.mark.parametrize(("kind", "name"), RECURRENT)
def test_a_missing_or_ill_typed_value_of_a_recurrent_decoder_is_named(tmp_path: Path, kind: str, name: str) -> None:
    def rename(model: onnx.ModelProto) -> None:
        of(model, name).name = "other"

    def retype(model: onnx.ModelProto) -> None:
        of(model, name).type.tensor_type.elem_type = TensorProto.BOOL

    def fix(model: onnx.ModelProto) -> None:
        of(model, name).type.tensor_type.shape.dim[0].dim_value = 1

    assert refusal(tmp_path / "a", rename) == f"decoder.onnx: {kind} {name} is missing"
    assert f"{kind} {name} must be " in refusal(tmp_path / "b", retype)
    assert f"{kind} {name} must be " in refusal(tmp_path / "c", fix)


def test_another_width_of_the_state_is_named(tmp_path: Path) -> None:
    def widen(model: onnx.ModelProto) -> None:
        of(model, "state.0").type.tensor_type.shape.dim[1].dim_value = 9

    assert "input state.0 must be float32 (batch, 8), not 'float32 (batch, 9)'" in refusal(tmp_path, widen)


def test_an_input_that_nothing_would_feed_is_refused(tmp_path: Path) -> None:
    def add(model: onnx.ModelProto) -> None:
        model.graph.input.append(helper.make_tensor_value_info("seqlens_k", INT32, ["batch"]))

    assert "input 'seqlens_k' is not one that EdgeLM can feed to a decoder" in refusal(tmp_path, add)


# With a cache


def values(*more: tuple[str, int, tuple[int | str, ...]]) -> tuple[ValueInfo, ...]:
    return tuple(ValueInfo(name, kind, dims) for name, kind, dims in more)


CACHE = [(f"past_key_values.0.{part}", FLOAT, ("batch", 2, "capacity", 8)) for part in ("key", "value")]
CROSS = [(f"cross_key_values.0.{part}", FLOAT, ("batch", 2, "source", 5)) for part in ("key", "value")]
INPUTS = [
    ("input_ids", INT64, ("batch", "sequence")),
    ("seqlens_k", INT32, ("batch",)),
    ("total_sequence_length", INT32, ()),
    ("logit_index", INT64, ("rows",)),
    ("encoder_attention_mask", INT32, ("batch", "source")),
    *CROSS,
    *CACHE,
]
OUTPUTS = [
    ("logits", FLOAT, ("rows", 32)),
    *((name.replace("past_key_values", "present"), kind, dims) for name, kind, dims in CACHE),
]


def check(inputs: list[tuple[str, int, tuple[int | str, ...]]], kv: KVGeometry | None = None) -> None:
    manifest = replace(recurrent_manifest(), state=None, kv=kv or KVGeometry(1, 2, 8))
    check_cross_decoder(values(*inputs), values(*OUTPUTS), graph_file="decoder.onnx", manifest=manifest)


def test_a_decoder_with_a_cache_may_take_positions() -> None:
    check(INPUTS)
    check([*INPUTS, ("position_ids", INT64, ("batch", "sequence"))])


@pytest.mark.parametrize("missing", [name for name, _, _ in INPUTS])
def test_a_missing_input_of_a_decoder_with_a_cache_is_named(missing: str) -> None:
    with pytest.raises(ModelError, match=rf"^decoder\.onnx: input {missing} is missing$"):
        check([value for value in INPUTS if value[0] != missing])


def test_sources_of_more_layers_than_the_decoder_has_are_refused() -> None:
    more = [(name.replace(".0.", ".1."), kind, dims) for name, kind, dims in CROSS]
    with pytest.raises(ModelError, match=r"input 'cross_key_values\.1\.key' is not one that EdgeLM can feed"):
        check([*INPUTS, *more])


def test_a_manifest_without_cache_and_state_is_refused() -> None:
    manifest = replace(recurrent_manifest(), state=None, kv=None)
    with pytest.raises(ModelError, match="neither kv geometry nor state"):
        check_cross_decoder(values(*INPUTS), values(*OUTPUTS), graph_file="decoder.onnx", manifest=manifest)
