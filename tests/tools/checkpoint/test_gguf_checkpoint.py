"""GGUF: every type, the order of Q and K, names, integers carried over, and damaged files."""

from __future__ import annotations

import contextlib
import struct
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from gguf import GGMLQuantizationType as Kind
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from support.checkpoints import llama_metadata, llama_tensors, write_gguf

from edgelm.errors import ClosedError, ModelError, UnsupportedModelError
from edgelm_tools.checkpoint.gguf_checkpoint import GGUFCheckpoint

LAYER = "model.layers.0."
NAMES = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    LAYER + "input_layernorm.weight": "blk.0.attn_norm.weight",
    LAYER + "self_attn.q_proj.weight": "blk.0.attn_q.weight",
    LAYER + "self_attn.k_proj.weight": "blk.0.attn_k.weight",
    LAYER + "self_attn.v_proj.weight": "blk.0.attn_v.weight",
    LAYER + "self_attn.o_proj.weight": "blk.0.attn_output.weight",
    LAYER + "post_attention_layernorm.weight": "blk.0.ffn_norm.weight",
    LAYER + "mlp.gate_proj.weight": "blk.0.ffn_gate.weight",
    LAYER + "mlp.up_proj.weight": "blk.0.ffn_up.weight",
    LAYER + "mlp.down_proj.weight": "blk.0.ffn_down.weight",
}


def permute(rows: NDArray[Any], heads: int) -> NDArray[Any]:
    """What llama.cpp's converter does to Q and K: row i of a head's second half goes behind row i of its first."""
    size = len(rows) // heads
    order = [head * size + half * size // 2 + i for head in range(heads) for i in range(size // 2) for half in (0, 1)]
    return rows[order]


def opened(path: Path, tensors: dict[str, NDArray[Any]], architecture: str = "llama", **changes: Any) -> GGUFCheckpoint:
    types = changes.pop("types", None)
    metadata = llama_metadata(architecture, **changes)
    return GGUFCheckpoint(write_gguf(path / "model.gguf", metadata, tensors, architecture=architecture, types=types))


def test_names_shapes_and_values(tmp_path: Path) -> None:
    tensors = llama_tensors()
    checkpoint = opened(tmp_path, tensors)
    assert set(checkpoint.names()) == set(NAMES)
    for name, stored in NAMES.items():
        assert checkpoint.shape(name) == tensors[stored].shape
        if "q_proj" not in name and "k_proj" not in name:
            np.testing.assert_array_equal(checkpoint.tensor(name), tensors[stored])
        assert checkpoint.quantized(name) is None
    with pytest.raises(ModelError, match=r"no tensor named 'lm_head\.weight'"):
        checkpoint.tensor("lm_head.weight")


@pytest.mark.parametrize("architecture", ["llama", "smollm3", "granite"])
def test_the_permutation_of_queries_and_keys_is_undone(tmp_path: Path, architecture: str) -> None:
    tensors = llama_tensors()
    queries, keys = tensors["blk.0.attn_q.weight"], tensors["blk.0.attn_k.weight"]
    query_bias, key_bias = np.arange(64, dtype=np.float32), np.arange(32, dtype=np.float32)
    tensors |= {
        "blk.0.attn_q.weight": permute(queries, 2),
        "blk.0.attn_k.weight": permute(keys, 1),
        "blk.0.attn_q.bias": permute(query_bias, 2),
        "blk.0.attn_k.bias": permute(key_bias, 1),
    }
    checkpoint = opened(tmp_path, tensors, architecture, **{"granite.attention.scale": 0.125})
    np.testing.assert_array_equal(checkpoint.tensor(LAYER + "self_attn.q_proj.weight"), queries)
    np.testing.assert_array_equal(checkpoint.tensor(LAYER + "self_attn.k_proj.weight"), keys)
    np.testing.assert_array_equal(checkpoint.tensor(LAYER + "self_attn.q_proj.bias"), query_bias)
    np.testing.assert_array_equal(checkpoint.tensor(LAYER + "self_attn.k_proj.bias"), key_bias)
    assert checkpoint.config["attention_bias"] is True


@pytest.mark.parametrize("architecture", ["qwen2", "qwen3", "gemma"])
def test_other_architectures_are_not_permuted(tmp_path: Path, architecture: str) -> None:
    tensors = llama_tensors()
    checkpoint = opened(tmp_path, tensors, architecture)
    np.testing.assert_array_equal(checkpoint.tensor(LAYER + "self_attn.q_proj.weight"), tensors["blk.0.attn_q.weight"])


@pytest.mark.parametrize("kind", [Kind.Q8_0, Kind.Q4_0])
def test_integers_are_carried_over_in_the_right_order(tmp_path: Path, kind: Kind) -> None:
    tensors = llama_tensors()
    original = tensors["blk.0.attn_q.weight"]
    tensors["blk.0.attn_q.weight"] = permute(original, 2)
    checkpoint = opened(tmp_path, tensors, types={"blk.0.attn_q.weight": kind, "token_embd.weight": kind})
    name = LAYER + "self_attn.q_proj.weight"
    blocks = checkpoint.quantized(name)
    assert blocks is not None
    assert (blocks.values.dtype, blocks.scales.dtype) == (np.int8, np.float32)
    assert (blocks.values.shape, blocks.scales.shape, blocks.block_size) == ((64, 64), (64, 2), 32)
    assert blocks.bits == (8 if kind == Kind.Q8_0 else 4)
    if kind == Kind.Q4_0:
        assert blocks.values.min() == -8
        assert blocks.values.max() <= 7
    dequantized = blocks.values * np.repeat(blocks.scales, 32, axis=1)
    np.testing.assert_array_equal(dequantized, checkpoint.tensor(name))
    # Rows are quantized one by one, so quantizing the original order gives the same values.
    expected = gguf.quants.dequantize(gguf.quants.quantize(original, kind), kind)
    np.testing.assert_array_equal(dequantized, expected)
    embedding = checkpoint.quantized("model.embed_tokens.weight")
    assert embedding is not None
    assert np.abs(embedding.values * np.repeat(embedding.scales, 32, axis=1) - tensors["token_embd.weight"]).max() < 0.5


def test_a_q4_0_block_by_hand(tmp_path: Path) -> None:
    tensors = llama_tensors()
    nibbles = np.arange(16, dtype=np.uint8)
    block = np.concatenate([np.array([0.5], np.float16).view(np.uint8), nibbles | (15 - nibbles) << 4])
    tensors["blk.0.ffn_up.weight"] = np.tile(block, (96, 2))
    checkpoint = opened(tmp_path, tensors, types={"blk.0.ffn_up.weight": Kind.Q4_0})
    blocks = checkpoint.quantized(LAYER + "mlp.up_proj.weight")
    assert blocks is not None
    row = [*range(-8, 8), *range(7, -9, -1)]
    np.testing.assert_array_equal(blocks.values, np.tile(row, (96, 2)))
    assert np.all(blocks.scales == 0.5)


@pytest.mark.parametrize("kind", [Kind.F16, Kind.BF16, Kind.Q4_1, Kind.Q5_0, Kind.Q5_1, Kind.Q8_0])
def test_types_that_can_be_written(tmp_path: Path, kind: Kind) -> None:
    tensors = llama_tensors()
    original = tensors["blk.0.ffn_down.weight"]
    checkpoint = opened(tmp_path, tensors, types={"blk.0.ffn_down.weight": kind})
    read = checkpoint.tensor(LAYER + "mlp.down_proj.weight")
    assert read.dtype == np.float32
    tolerance = {Kind.F16: 2e-3, Kind.BF16: 2e-2, Kind.Q8_0: 3e-2}.get(kind, 0.3)
    np.testing.assert_allclose(read, original, atol=tolerance)


@pytest.mark.parametrize("kind", [Kind.Q2_K, Kind.Q3_K, Kind.Q4_K, Kind.Q5_K, Kind.Q6_K])
def test_k_types(tmp_path: Path, kind: Kind) -> None:
    """No writer for them exists in Python: random blocks with sane scales, against the package row by row."""
    tensors = llama_tensors()
    _, block_bytes = gguf.GGML_QUANT_SIZES[kind]
    blocks = np.random.default_rng(1).integers(0, 60, size=(64, block_bytes), dtype=np.uint8)
    tensors["blk.0.ffn_down.weight"] = blocks
    checkpoint = opened(tmp_path, tensors, types={"blk.0.ffn_down.weight": kind}, llama__feed_forward_length=256)
    name = LAYER + "mlp.down_proj.weight"
    assert checkpoint.shape(name) == (64, 256)
    expected = np.stack([gguf.quants.dequantize(row[None], kind)[0] for row in blocks])
    np.testing.assert_array_equal(checkpoint.tensor(name), expected)
    assert checkpoint.quantized(name) is None


def test_float64_is_read_and_integers_are_refused(tmp_path: Path) -> None:
    tensors = llama_tensors()
    tensors["output_norm.weight"] = np.linspace(0, 1, 64)
    tensors["blk.0.attn_norm.weight"] = np.arange(64, dtype=np.int32)
    checkpoint = opened(tmp_path, tensors)
    np.testing.assert_array_equal(checkpoint.tensor("model.norm.weight"), np.linspace(0, 1, 64).astype(np.float32))
    with pytest.raises(UnsupportedModelError, match="integers"):
        checkpoint.tensor(LAYER + "input_layernorm.weight")


def test_tensors_are_copies_and_end_with_close(tmp_path: Path) -> None:
    checkpoint = opened(tmp_path, llama_tensors())
    first = checkpoint.tensor("model.norm.weight")
    first[:] = 0
    assert checkpoint.tensor("model.norm.weight").any()
    checkpoint.close()
    with pytest.raises(ClosedError):
        checkpoint.tensor("model.norm.weight")


def test_gemma_norms_lose_the_one_that_the_converter_added(tmp_path: Path) -> None:
    tensors = llama_tensors()
    checkpoint = opened(tmp_path, tensors, "gemma")
    np.testing.assert_array_equal(checkpoint.tensor("model.norm.weight"), tensors["output_norm.weight"] - 1)
    np.testing.assert_array_equal(checkpoint.tensor("model.embed_tokens.weight"), tensors["token_embd.weight"])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("blk.0.attn_sinks.weight", "not one a llama model has"),
        ("blk.00.attn_q.weight", "not one a llama model has"),
        ("blk.1.attn_q.weight", "beyond the last of 1 layers"),
        ("blk.0.attn_q.scale", "not one a llama model has"),
    ],
)
def test_foreign_tensors_are_named(tmp_path: Path, name: str, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        opened(tmp_path, llama_tensors() | {name: np.zeros(4, np.float32)})


def test_queries_whose_rows_do_not_fit_the_heads(tmp_path: Path) -> None:
    tensors = llama_tensors() | {"blk.0.attn_q.weight": np.zeros((6, 64), np.float32)}
    checkpoint = opened(tmp_path, tensors)
    with pytest.raises(ModelError, match=r"'blk\.0\.attn_q\.weight' has 6 rows for 2 heads"):
        checkpoint.tensor(LAYER + "self_attn.q_proj.weight")


def test_one_part_of_several_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModelError, match="one part of several"):
        opened(tmp_path, llama_tensors(), **{"split.count": 3})


def test_rope_factors_go_into_the_configuration(tmp_path: Path) -> None:
    factors = np.array([1.0] * 8 + [1.7] * 4 + [8.0] * 4, np.float32)
    checkpoint = opened(tmp_path, llama_tensors() | {"rope_freqs.weight": factors})
    assert checkpoint.config["rope_scaling"]["short_factor"] == [1.0] * 8 + [1.7] * 4 + [8.0] * 4
    assert set(checkpoint.names()) == set(NAMES)


def test_more_rope_factors_than_any_head_takes_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(GGUFCheckpoint, "_read", lambda *_: pytest.fail("was read"))
    with pytest.raises(ModelError, match=r"rope_freqs\.weight has 2049 factors; the largest heads take 2048"):
        opened(tmp_path, llama_tensors() | {"rope_freqs.weight": np.ones(2049, np.float32)})


def test_text_assets(tmp_path: Path) -> None:
    changes = {
        "tokenizer.chat_template": "{{ messages }}",
        "tokenizer.ggml.eot_token_id": 5,
        "tokenizer.ggml.unknown_token_id": 0,
        "general.sampling.temp": 0.7,
        "general.sampling.top_k": 20,
    }
    text = opened(tmp_path, llama_tensors(), **changes).text_assets()
    assert text.chat_template == "{{ messages }}"
    assert text.special_tokens == {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    assert text.generation_config == {
        "bos_token_id": 1,
        "eos_token_id": [2, 5],
        "temperature": 0.7,
        "top_k": 20,
    }


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tokenizer.ggml.tokens": [str(i) for i in range(99)]}, "99 tokens, but the embedding has 16 rows"),
        ({"tokenizer.ggml.eos_token_id": 16}, "eos_token_id is 16, there are 16 tokens"),
    ],
)
def test_text_that_contradicts_the_weights(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        opened(tmp_path, llama_tensors(), **changes).text_assets()


@pytest.fixture(scope="module")
def whole_file(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("gguf") / "model.gguf"
    return write_gguf(path, llama_metadata(), llama_tensors()).read_bytes()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: b"", "empty"),
        (lambda data: data[:3], "truncated"),
        (lambda data: data[:20], "truncated"),
        (lambda data: data[:-1], "truncated"),
        (lambda data: b"GGML" + data[4:], "not a GGUF file"),
        (lambda data: data[:4] + struct.pack("<I", 1) + data[8:], "GGUF version 1"),
        (lambda data: data[:4] + struct.pack(">I", 3) + data[8:], "big-endian"),
        (lambda data: data[:8] + struct.pack("<Q", 2**63) + data[16:], "room for"),
        (lambda data: data[:16] + struct.pack("<Q", 2**63) + data[24:], "room for"),
        (lambda data: data[:24] + struct.pack("<Q", 2**63) + data[32:], "truncated"),
        (lambda data: data[:24] + struct.pack("<Q", 0) + data[32:], "a name of 0 characters"),
        (lambda data: data[:32] + b"\xff" + data[33:], "not UTF-8 at byte 32"),
    ],
)
def test_a_broken_file_is_refused(tmp_path: Path, whole_file: bytes, change: Any, message: str) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(change(whole_file))
    with pytest.raises(ModelError, match=message):
        GGUFCheckpoint(path)


def header(tensors: list[tuple[str, tuple[int, ...], int, int]], keys: bytes = b"", key_count: int = 0) -> bytes:
    data = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), key_count) + keys
    for name, shape, kind, offset in tensors:
        data += struct.pack("<Q", len(name)) + name.encode() + struct.pack("<I", len(shape))
        data += b"".join(struct.pack("<Q", size) for size in shape) + struct.pack("<IQ", kind, offset)
    return data.ljust(-(-len(data) // 32) * 32, b"\0")


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ([("a", (8,), 99, 0)], "unknown GGML type 99"),
        ([("a", (8,), 0, 2**62)], "truncated"),
        ([("a", (2**40, 2**40), 0, 0)], "truncated"),
        ([("a", (8,), 0, 5)], "not a multiple of the alignment"),
        ([("a", (8, 0), 0, 0)], "impossible shape"),
        ([("a", (33,), 8, 0)], "impossible shape"),
        ([("a", (), 0, 0)], "0 dimensions"),
        ([("a", (1,) * 5, 0, 0)], "5 dimensions"),
        ([("a", (16,), 0, 0), ("b", (16,), 0, 32)], "overlaps"),
        ([("a", (8,), 0, 0), ("a", (8,), 0, 32)], "repeated"),
    ],
)
def test_wrong_tensor_descriptions(tmp_path: Path, tensors: Any, message: str) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(header(tensors) + bytes(128))
    with pytest.raises(ModelError, match=message):
        GGUFCheckpoint(path)


def key(name: str, kind: int, value: bytes) -> bytes:
    return struct.pack("<Q", len(name)) + name.encode() + struct.pack("<I", kind) + value


@pytest.mark.parametrize(
    ("keys", "count", "message"),
    [
        (key("k", 13, b""), 1, "unknown value type 13"),
        (key("k", 9, struct.pack("<IQ", 9, 1)), 1, "array of the unknown type 9"),
        (key("k", 9, struct.pack("<IQ", 8, 2**61)), 1, "room for"),
        (key("k", 9, struct.pack("<IQ", 0, 2**61)), 1, "room for"),
        (key("k", 8, struct.pack("<Q", 2**61)), 1, "truncated"),
        (key("k", 0, b"\1") * 2, 2, "'k' is repeated"),
        (key("general.alignment", 4, struct.pack("<I", 0)), 1, "general.alignment must be one integer, at least 1"),
    ],
)
def test_wrong_metadata(tmp_path: Path, keys: bytes, count: int, message: str) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(header([], keys, count) + bytes(64))
    with pytest.raises(ModelError, match=message):
        GGUFCheckpoint(path)


@settings(max_examples=400, deadline=None)
@given(data=st.data())
def test_a_damaged_file_is_refused_or_read(
    tmp_path_factory: pytest.TempPathFactory, whole_file: bytes, data: st.DataObject
) -> None:
    damaged = bytearray(whole_file)
    header_end = whole_file.index(b"blk.0.ffn_down.weight") + 64
    for _ in range(data.draw(st.integers(0, 3))):
        damaged[data.draw(st.integers(0, header_end))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.just(len(damaged)) | st.integers(0, len(damaged)))
    path = tmp_path_factory.mktemp("fuzz") / "model.gguf"
    path.write_bytes(damaged[:cut])
    with contextlib.suppress(ModelError):
        checkpoint = GGUFCheckpoint(path)
        for name in checkpoint.names():
            assert checkpoint.tensor(name).shape == checkpoint.shape(name)
            checkpoint.quantized(name)
        checkpoint.text_assets()
