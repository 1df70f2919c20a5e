"""The same model out of other containers: a checkpoint with vision, several shards, half precision, GGUF."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from numpy.typing import NDArray
from support.checkpoints import TOKENS, llama_metadata, write_gguf
from support.memory_checkpoint import MemoryCheckpoint
from support.native_graphs import write_native
from support.tiny_checkpoints import (
    VOCABULARY,
    Variant,
    reference_logits,
    reference_model,
    variant,
    write_checkpoint,
    write_text_assets,
)

from edgelm.runtime.decoder import Decoder
from edgelm.runtime.session import Session
from edgelm_tools.architectures.llama_spec import llama_spec
from edgelm_tools.checkpoint import Checkpoint, open_checkpoint
from edgelm_tools.quantize.schemes import Float32

Floats = NDArray[np.float32]
IDS = np.random.default_rng(0).integers(0, len(TOKENS), 40)

# Q8_0 wants widths that are multiples of 32; the context length is that of ``llama_metadata``.
CONFIG: dict[str, Any] = {
    "model_type": "llama",
    "vocab_size": len(TOKENS),
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "rope_theta": 500_000.0,
    "rms_norm_eps": 1e-5,
}
STORED = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def logits(folder: Path, checkpoint: Checkpoint, ids: NDArray[np.int64]) -> Floats:
    spec = llama_spec(checkpoint.config)
    write_native(folder / "decoder.onnx", checkpoint, Float32())
    session = Session(folder / "decoder.onnx", threads=1, spinning=False)
    decoder = Decoder(session, context_length=spec.context_length, prefill_chunk=1 << 20)
    return np.concatenate(list(decoder.all_logits(ids)))


def llama_values(seed: int = 3) -> dict[str, Floats]:
    """A model of ``CONFIG``, by Hugging Face names."""
    random = np.random.default_rng(seed)
    rows = {"q_proj": 64, "k_proj": 32, "v_proj": 32, "o_proj": 64, "gate_proj": 96, "up_proj": 96, "down_proj": 64}
    values: dict[str, Floats] = {}
    for name in STORED:
        kind = name.rpartition(".")[2]
        shape: tuple[int, ...] = (rows.get(kind, len(TOKENS)), 96 if kind == "down_proj" else 64)
        if "norm" in kind:
            shape = (64,)
        whole = name if name.startswith(("model.", "lm_head")) else f"model.layers.0.{name}"
        values[f"{whole}.weight"] = random.normal(scale=0.3, size=shape).astype(np.float32)
    return values


def as_gguf(path: Path, values: Mapping[str, Floats], kind: gguf.GGMLQuantizationType) -> Path:
    """Written as llama.cpp's converter does: rows of queries and keys with the halves of a pair side by side."""
    tensors, types = {}, {}
    for name, value in values.items():
        module = name.removeprefix("model.layers.0.").removesuffix(".weight")
        block = "blk.0." if name.startswith("model.layers") else ""
        stored = f"{block}{STORED[module]}.weight"
        heads = {"self_attn.q_proj": 4, "self_attn.k_proj": 2}.get(module)
        tensors[stored] = value if heads is None else interleaved(value, heads)
        if value.ndim == 2:
            types[stored] = kind
    metadata = llama_metadata(llama__attention__head_count=4, llama__attention__head_count_kv=2)
    return write_gguf(path, metadata, tensors, types=types)


def interleaved(rows: Floats, heads: int) -> Floats:
    halves = rows.reshape(heads, 2, len(rows) // heads // 2, -1)
    return np.ascontiguousarray(halves.swapaxes(1, 2)).reshape(rows.shape)


@pytest.mark.parametrize("kind", [gguf.GGMLQuantizationType.F16, gguf.GGMLQuantizationType.Q8_0])
def test_a_gguf_file_computes_what_its_values_do(kind: gguf.GGMLQuantizationType, tmp_path: Path) -> None:
    # The values that the format holds: row by row, blocks stay whole when rows change places.
    values = {
        name: gguf.quants.dequantize(gguf.quants.quantize(value, kind), kind).astype(np.float32)
        if value.ndim == 2
        else value
        for name, value in llama_values().items()
    }
    file = open_checkpoint(as_gguf(tmp_path / "model.gguf", values, kind))
    expected = logits(tmp_path, MemoryCheckpoint(values, CONFIG), IDS)
    np.testing.assert_array_equal(logits(tmp_path, file, IDS), expected)
    file.close()


@pytest.mark.reference
def test_the_text_part_of_a_gemma3_with_vision(tmp_path: Path) -> None:
    model = gemma3_with_vision()
    checkpoint = open_checkpoint(write_checkpoint(tmp_path / "checkpoint", model))
    assert any("vision_tower" in name for name in checkpoint.names())
    ids = np.random.default_rng(1).integers(0, VOCABULARY, 60)
    expected = reference_logits(model, ids)
    assert np.abs(logits(tmp_path, checkpoint, ids) - expected).max() < 1e-4 * expected.std()
    checkpoint.close()


def gemma3_with_vision() -> Any:
    text = reference_model(variant("gemma3_text"))
    vision = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from transformers import Gemma3Config, Gemma3ForConditionalGeneration, SiglipVisionConfig

        vision_config = SiglipVisionConfig(**vision, image_size=16, patch_size=8)
        config = Gemma3Config(text_config=text.config, vision_config=vision_config, mm_tokens_per_image=4)
        model = Gemma3ForConditionalGeneration._from_config(config, attn_implementation="eager").float().eval()
    model.model.language_model.load_state_dict(text.model.state_dict())
    return model


@pytest.mark.reference
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_shards_of_half_precision_hold_the_same_numbers(dtype: str, tmp_path: Path) -> None:
    import torch

    model = reference_model(Variant("shards", "qwen2", {"tie_word_embeddings": True}))
    halves = {name: value.to(getattr(torch, dtype)) for name, value in model.state_dict().items()}
    model.load_state_dict(halves)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.save_pretrained(tmp_path / "checkpoint", state_dict=halves, max_shard_size="100KB")
    write_text_assets(tmp_path / "checkpoint")
    assert len(list((tmp_path / "checkpoint").glob("*.safetensors"))) > 1
    checkpoint = open_checkpoint(tmp_path / "checkpoint")
    ids = np.random.default_rng(1).integers(0, VOCABULARY, 60)
    expected = reference_logits(model, ids)
    assert np.abs(logits(tmp_path, checkpoint, ids) - expected).max() < 1e-4 * expected.std()
    checkpoint.close()
