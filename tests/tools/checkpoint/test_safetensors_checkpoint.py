"""Safetensors folders: every dtype, shards, the text files, and everything that must be refused."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file
from support.checkpoints import safetensors_bytes, write_folder

from edgelm.errors import ClosedError, ModelError, UnsupportedModelError
from edgelm_tools.checkpoint.safetensors_checkpoint import SafetensorsCheckpoint

CONFIG = {"model_type": "llama"}
TENSORS = {
    "a.weight": np.arange(6, dtype=np.float32).reshape(2, 3),
    "b.weight": np.array([1.5, -2.25], dtype=np.float16),
    "c.weight": np.array([[0.1]], dtype=np.float64),
}
WEIGHTS = safetensors_bytes(TENSORS)


def folder_with(path: Path, **files: Any) -> Path:
    names = {"config": "config.json", "weights": "model.safetensors", "index": "model.safetensors.index.json"}
    return write_folder(path, {names.get(name, name): content for name, content in files.items()})


def test_reads_what_the_reference_library_wrote(tmp_path: Path) -> None:
    folder = folder_with(tmp_path, config=CONFIG)
    save_file(TENSORS, folder / "model.safetensors", metadata={"format": "pt"})
    checkpoint = SafetensorsCheckpoint(folder)
    assert sorted(checkpoint.names()) == sorted(TENSORS)
    for name, array in TENSORS.items():
        read = checkpoint.tensor(name)
        assert checkpoint.shape(name) == array.shape
        assert read.dtype == np.float32
        np.testing.assert_array_equal(read, array.astype(np.float32))
        assert checkpoint.quantized(name) is None
    assert checkpoint.config == CONFIG


def test_tensors_are_copies_that_may_be_written_to_and_outlive_the_file(tmp_path: Path) -> None:
    checkpoint = SafetensorsCheckpoint(folder_with(tmp_path, config=CONFIG, weights=WEIGHTS))
    first = checkpoint.tensor("a.weight")
    first[:] = -1
    np.testing.assert_array_equal(checkpoint.tensor("a.weight"), TENSORS["a.weight"])
    checkpoint.close()
    assert first.sum() == -6
    with pytest.raises(ClosedError):
        checkpoint.tensor("a.weight")


@given(st.lists(st.floats(width=32), max_size=20))
def test_bfloat16_is_the_upper_half_of_float32(tmp_path_factory: pytest.TempPathFactory, values: list[float]) -> None:
    halves = (np.array(values, dtype=np.float32).view(np.uint32) >> 16).astype(np.uint16)
    weights = safetensors_bytes({"x": halves})
    checkpoint = SafetensorsCheckpoint(folder_with(tmp_path_factory.mktemp("bf16"), config=CONFIG, weights=weights))
    np.testing.assert_array_equal(checkpoint.tensor("x").view(np.uint32), halves.astype(np.uint32) << 16)


def test_a_float64_beyond_float32_becomes_infinity(tmp_path: Path) -> None:
    weights = safetensors_bytes({"x": np.array([1e300, -1e300])})
    checkpoint = SafetensorsCheckpoint(folder_with(tmp_path, config=CONFIG, weights=weights))
    np.testing.assert_array_equal(checkpoint.tensor("x"), [np.inf, -np.inf])


def test_other_dtypes_open_but_are_refused_by_name_when_read(tmp_path: Path) -> None:
    weights = safetensors_bytes({"position_ids": np.arange(3), "x": TENSORS["a.weight"]})
    checkpoint = SafetensorsCheckpoint(folder_with(tmp_path, config=CONFIG, weights=weights))
    assert checkpoint.tensor("x").shape == (2, 3)
    with pytest.raises(UnsupportedModelError, match=r"position_ids.* is I64"):
        checkpoint.tensor("position_ids")


@pytest.mark.parametrize("method", ["tensor", "shape", "quantized"])
def test_an_unknown_name_is_named(tmp_path: Path, method: str) -> None:
    checkpoint = SafetensorsCheckpoint(folder_with(tmp_path, config=CONFIG, weights=WEIGHTS))
    with pytest.raises(ModelError, match=r"no tensor named 'nothing\.weight'"):
        getattr(checkpoint, method)("nothing.weight")


def shards(path: Path, weight_map: dict[str, Any]) -> Path:
    return folder_with(
        path,
        config=CONFIG,
        index={"metadata": {"total_size": 1}, "weight_map": weight_map},
        **{
            "one.safetensors": safetensors_bytes({"a.weight": TENSORS["a.weight"]}),
            "two.safetensors": safetensors_bytes({"b.weight": TENSORS["b.weight"]}),
        },
    )


def test_shards(tmp_path: Path) -> None:
    checkpoint = SafetensorsCheckpoint(shards(tmp_path, {"a.weight": "one.safetensors", "b.weight": "two.safetensors"}))
    assert list(checkpoint.names()) == ["a.weight", "b.weight"]
    np.testing.assert_array_equal(checkpoint.tensor("b.weight"), TENSORS["b.weight"].astype(np.float32))


@pytest.mark.parametrize(
    ("weight_map", "message"),
    [
        ({"a.weight": "three.safetensors"}, "three.safetensors' is missing"),
        ({"a.weight": "two.safetensors"}, "'a.weight' is missing"),
        ({"a.weight": "../one.safetensors"}, "plain file name"),
        ({"a.weight": "/etc/one.safetensors"}, "plain file name"),
        ({"a.weight": "sub\\one.safetensors"}, "plain file name"),
        ({"a.weight": "one.safetensors\0"}, "plain file name"),
        ({"a.weight": "C:one.safetensors"}, "plain file name"),
        ({"a.weight": "one.bin"}, "plain file name"),
        ({"a.weight": 1}, "plain file name"),
        ({}, "weight_map"),
    ],
)
def test_a_wrong_index_is_refused(tmp_path: Path, weight_map: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        SafetensorsCheckpoint(shards(tmp_path, weight_map))


def test_symbolic_links_are_followed_as_in_the_hub_cache(tmp_path: Path) -> None:
    blob = tmp_path / "blob"
    blob.write_bytes(WEIGHTS)
    folder = folder_with(tmp_path / "snapshot", config=CONFIG)
    (folder / "model.safetensors").symlink_to(blob)
    assert SafetensorsCheckpoint(folder).shape("a.weight") == (2, 3)


def entry(dtype: Any = "F32", shape: Any = (2,), offsets: Any = (0, 8)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ({"x": entry(offsets=(0, 12))}, "truncated"),
        ({"x": entry(offsets=(8, 0))}, "impossible data_offsets"),
        ({"x": entry(offsets=(-8, 0))}, "impossible data_offsets"),
        ({"x": entry(shape=(3,))}, "takes 12 bytes, not 8"),
        ({"x": entry(shape=(-2,))}, "impossible shape"),
        ({"x": entry(shape=(True, 2))}, "impossible shape"),
        ({"x": entry(shape=(0, 2**62, 2**62), offsets=(0, 0))}, "impossible shape"),
        ({"x": entry(), "y": entry()}, "overlaps"),
        ({"x": entry(shape=(1,), offsets=(4, 8))}, "hole"),
        ({"x": entry(shape=(1,), offsets=(0, 4))}, "behind the last tensor"),
        ({"x": entry(dtype="F128")}, "unknown dtype 'F128'"),
        ({"x": entry(dtype=["F32"])}, "unknown dtype"),
        ({"x": [1]}, "exactly dtype, shape"),
        ({"x": {"dtype": "F32"}}, "exactly dtype, shape"),
        ({"__metadata__": {"a": 1}, "x": entry()}, "__metadata__"),
    ],
)
def test_a_wrong_header_is_refused(tmp_path: Path, header: dict[str, Any], message: str) -> None:
    weights = safetensors_bytes({"x": np.zeros(2, np.float32)}, header)
    with pytest.raises(ModelError, match=message):
        SafetensorsCheckpoint(folder_with(tmp_path, config=CONFIG, weights=weights))


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (b"", "empty"),
        (b"\x01\x02", "truncated"),
        (b"\xff" * 16, "not a safetensors file"),
        ((2**40).to_bytes(8, "little") + b"{}", "not a safetensors file"),
        ((4).to_bytes(8, "little") + b"[{}]", "must be a JSON object"),
        ((13).to_bytes(8, "little") + b'{"x":1,"x":1}', "'x' occurs twice"),
        ((400_000).to_bytes(8, "little") + b'{"x":' + b"[" * 400_000, "nested deeper|not valid JSON"),
    ],
)
def test_a_broken_file_is_refused(tmp_path: Path, weights: bytes, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        SafetensorsCheckpoint(folder_with(tmp_path, config=CONFIG, weights=weights))


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_a_damaged_file_is_refused_or_read(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    weights = bytearray(WEIGHTS)
    for _ in range(data.draw(st.integers(0, 3))):
        weights[data.draw(st.integers(0, len(weights) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.one_of(st.just(len(weights)), st.integers(0, len(weights))))
    open_and_read_or_refuse(folder_with(tmp_path_factory.mktemp("fuzz"), config=CONFIG, weights=bytes(weights[:cut])))


ODD = st.sampled_from([0, 1, 2, 4, 8, -1, 2**31, 2**63, 2**64, 1.5, True, None, "F32", "I8", "F4", [], [2], [0, 8], {}])


ENTRIES = st.fixed_dictionaries(
    {"dtype": ODD, "shape": ODD | st.lists(ODD, max_size=3), "data_offsets": ODD | st.tuples(ODD, ODD)}
)


@settings(max_examples=200, deadline=None)
@given(header=st.dictionaries(st.text(max_size=3), ENTRIES, max_size=3))
def test_an_odd_header_is_refused_or_read(tmp_path_factory: pytest.TempPathFactory, header: dict[str, Any]) -> None:
    weights = safetensors_bytes({"x": np.zeros(2, np.float32)}, header)
    open_and_read_or_refuse(folder_with(tmp_path_factory.mktemp("odd"), config=CONFIG, weights=weights))


def open_and_read_or_refuse(folder: Path) -> None:
    with contextlib.suppress(ModelError):
        checkpoint = SafetensorsCheckpoint(folder)
        for name in checkpoint.names():
            assert checkpoint.tensor(name).shape == checkpoint.shape(name)


@pytest.mark.parametrize(
    ("config", "error", "message"),
    [
        ({"auto_map": {"AutoModel": "m.M"}}, UnsupportedModelError, "auto_map"),
        ({"quantization_config": {"quant_method": "gptq"}}, UnsupportedModelError, "already quantized"),
        (b"{", ModelError, "not valid JSON"),
        (b'{"a": NaN}', ModelError, "NaN is not a JSON number"),
        (b'{"a": 1e999}', ModelError, "out of range"),
        (b'{"a": 1, "a": 2}', ModelError, "'a' occurs twice"),
        (b"[" * 200_000, ModelError, "nested deeper"),
        (b'{"a": ' + b"9" * 5000 + b"}", ModelError, "not valid JSON"),
        (b"\xff\xfe", ModelError, "not UTF-8"),
        (b"[]", ModelError, "must be a JSON object"),
    ],
)
def test_a_wrong_config_is_refused(tmp_path: Path, config: Any, error: type[ModelError], message: str) -> None:
    with pytest.raises(error, match=message):
        SafetensorsCheckpoint(folder_with(tmp_path, config=config, weights=WEIGHTS))


def test_without_config(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no config\.json"):
        SafetensorsCheckpoint(folder_with(tmp_path, weights=WEIGHTS))


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "model.pth"])
def test_pickles_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UnsupportedModelError, match="safetensors is needed"):
        SafetensorsCheckpoint(folder_with(tmp_path, config=CONFIG, **{name: b"\x80\x04"}))


TOKENIZER = b'{"version": "1.0"}'


def text_of(path: Path, **files: Any) -> Any:
    return SafetensorsCheckpoint(folder_with(path, config=CONFIG, weights=WEIGHTS, **files)).text_assets()


def test_text_assets(tmp_path: Path) -> None:
    settings_file = {
        "chat_template": "{{ messages }}",
        "bos_token": {"content": "<s>", "lstrip": False},
        "eos_token": "</s>",
        "pad_token": None,
        "mask_token": {"content": "<mask>", "lstrip": True},
        "clean_up_tokenization_spaces": True,
    }
    text = text_of(
        tmp_path,
        **{
            "tokenizer.json": TOKENIZER,
            "tokenizer_config.json": settings_file,
            "special_tokens_map.json": {"eos_token": "other", "unk_token": {"content": "<unk>"}},
            "generation_config.json": {"eos_token_id": [1, 2]},
        },
    )
    assert text.tokenizer == TOKENIZER
    assert text.chat_template == "{{ messages }}"
    assert text.special_tokens == {
        "bos_token": "<s>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
        "mask_token": "<mask>",
    }
    assert text.generation_config == {"eos_token_id": [1, 2]}
    assert text.cleans_up_spaces


def test_text_assets_of_a_bare_tokenizer(tmp_path: Path) -> None:
    text = text_of(tmp_path, **{"tokenizer.json": TOKENIZER})
    assert (text.chat_template, text.special_tokens, text.generation_config) == (None, {}, {})


def test_the_template_of_its_own_file_comes_first(tmp_path: Path) -> None:
    files = {"tokenizer.json": TOKENIZER, "chat_template.jinja": "né".encode()}
    assert text_of(tmp_path, **files, **{"tokenizer_config.json": {"chat_template": "old"}}).chat_template == "né"


def test_of_several_templates_the_default_is_taken(tmp_path: Path) -> None:
    named = [{"name": "tool_use", "template": "t"}, {"name": "default", "template": "d"}]
    files = {"tokenizer.json": TOKENIZER, "tokenizer_config.json": {"chat_template": named}}
    assert text_of(tmp_path, **files).chat_template == "d"


@pytest.mark.parametrize(
    ("files", "error", "message"),
    [
        ({}, UnsupportedModelError, r"no tokenizer\.json.*save_pretrained"),
        ({"tokenizer_config.json": {"chat_template": 3}}, ModelError, "chat_template must be"),
        ({"tokenizer_config.json": {"bos_token": [1]}}, ModelError, "bos_token must be"),
        ({"tokenizer_config.json": {"bos_token": {"content": 7}}}, ModelError, "bos_token must be"),
        ({"chat_template.jinja": b"\xff"}, ModelError, "not UTF-8 at byte 0"),
        ({"chat_template.jinja": b"x" * (2**20 + 1)}, ModelError, "larger than"),
        ({"generation_config.json": b"nope"}, ModelError, "not valid JSON"),
    ],
)
def test_wrong_text_files(tmp_path: Path, files: dict[str, Any], error: type[ModelError], message: str) -> None:
    tokenizer = {"tokenizer.json": TOKENIZER} if files else {}
    with pytest.raises(error, match=message):
        text_of(tmp_path, **tokenizer, **files)


def test_the_helper_writes_what_the_format_asks() -> None:
    length = int.from_bytes(WEIGHTS[:8], "little")
    assert json.loads(WEIGHTS[8 : 8 + length])["b.weight"]["dtype"] == "F16"
