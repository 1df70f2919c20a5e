"""GGUF metadata as Hugging Face configurations, for each architecture, and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from edgelm.errors import ModelError, UnsupportedModelError
from edgelm_tools.checkpoint.gguf_config import build_config
from edgelm_tools.checkpoint.gguf_file import StoredTensor
from edgelm_tools.checkpoint.gguf_metadata import Metadata
from edgelm_tools.checkpoint.gguf_names import ARCHITECTURES, hugging_face_names


def config_of(
    architecture: str,
    *,
    tensors: tuple[str, ...] = (),
    layers: int = 4,
    rope: dict[str, list[float]] | None = None,
    **changes: Any,
) -> dict[str, Any]:
    values: dict[str, Any] = {
        "block_count": layers,
        "context_length": 4096,
        "embedding_length": 64,
        "feed_forward_length": 96,
        "attention.head_count": 2,
        "attention.head_count_kv": 1,
        "attention.layer_norm_rms_epsilon": 1e-6,
    }
    values |= {name.replace("__", "."): value for name, value in changes.items()}
    named = {f"{architecture}.{name}": value for name, value in values.items() if value is not None}
    named |= {"general.architecture": architecture, "tokenizer.ggml.bos_token_id": 1}
    stored = {name: StoredTensor("F32", (64,), 0, 256) for name in (*tensors, *(f"t{i}" for i in range(80)))}
    stored["token_embd.weight"] = StoredTensor("F32", (50, 64), 0, 4)
    return build_config(Metadata(named, "model.gguf"), stored, rope or {})


NEEDED: dict[str, dict[str, Any]] = {
    "gemma2": {"attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0, "attention__sliding_window": 4096},
    "gemma3": {"attention__sliding_window": 512, "rope__freq_base": 1e6},
    "granite": {"attention__scale": 0.0078125, "embedding_scale": 12.0, "residual_scale": 0.22, "logit_scale": 8.0},
    "stablelm": {"attention__layer_norm_epsilon": 1e-5, "rope__dimension_count": 8, "use_parallel_residual": False},
    "phi3": {"attention__sliding_window": 0, "rope__scaling__original_context_length": 4096},
}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_fields_that_all_share(architecture: str) -> None:
    config = config_of(architecture, **NEEDED.get(architecture, {}))
    assert config["model_type"] == {"gemma3": "gemma3_text"}.get(architecture, architecture)
    assert config["architectures"][0].lower().startswith(architecture)
    expected = {
        "vocab_size": 50,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 4,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 32,
        "max_position_embeddings": 4096,
        "tie_word_embeddings": True,
        "attention_bias": False,
        "bos_token_id": 1,
    }
    assert expected.items() <= config.items()


def test_biases_and_an_own_output_matrix_show_in_the_tensors() -> None:
    config = config_of("llama", tensors=("output.weight", "blk.0.attn_q.bias", "blk.0.ffn_down.bias"))
    assert (config["tie_word_embeddings"], config["attention_bias"], config["mlp_bias"]) == (False, True, True)


def test_gemma2() -> None:
    config = config_of("gemma2", **NEEDED["gemma2"])
    assert config["layer_types"] == ["sliding_attention", "full_attention"] * 2
    assert (config["attn_logit_softcapping"], config["final_logit_softcapping"]) == (50.0, 30.0)
    assert (config["query_pre_attn_scalar"], config["hidden_activation"]) == (32, "gelu_pytorch_tanh")


def test_the_largest_gemma_scales_queries_by_another_number() -> None:
    config = config_of("gemma2", layers=46, attention__key_length=128, attention__value_length=128, **NEEDED["gemma2"])
    assert config["query_pre_attn_scalar"] == 64 // 2


def test_gemma3() -> None:
    config = config_of("gemma3", layers=7, rope__scaling__type="linear", rope__scaling__factor=8.0, **NEEDED["gemma3"])
    assert config["layer_types"] == ["sliding_attention"] * 5 + ["full_attention", "sliding_attention"]
    assert (config["rope_theta"], config["rope_local_base_freq"]) == (1e6, 10000.0)
    assert config["rope_scaling"] == {"rope_type": "linear", "factor": 8.0}


def test_granite() -> None:
    config = config_of("granite", **NEEDED["granite"])
    assert config["attention_multiplier"] == 0.0078125
    assert (config["embedding_multiplier"], config["residual_multiplier"]) == (12.0, 0.22)
    assert config["logits_scaling"] == 8.0


def test_smollm3_leaves_every_fourth_layer_without_rope() -> None:
    assert config_of("smollm3", layers=5)["no_rope_layers"] == [1, 1, 1, 0, 1]


def test_stablelm() -> None:
    config = config_of("stablelm", **NEEDED["stablelm"])
    assert config["partial_rotary_factor"] == 0.25
    assert (config["use_parallel_residual"], config["layer_norm_eps"]) == (False, 1e-5)


def test_phi3_with_long_and_short_factors() -> None:
    long, short = [float(i) for i in range(16)], [1.0] * 16
    rope = {"rope_factors_long.weight": long, "rope_factors_short.weight": short}
    config = config_of("phi3", rope=rope, **NEEDED["phi3"])
    assert config["rope_scaling"] == {"type": "longrope", "long_factor": long, "short_factor": short}
    assert (config["sliding_window"], config["original_max_position_embeddings"]) == (None, 4096)


def test_llama3_factors_become_the_same_computation() -> None:
    factors = [1.0] * 10 + [8.0] * 6
    scaling = config_of("llama", rope={"rope_freqs.weight": factors})["rope_scaling"]
    assert scaling == {
        "rope_type": "longrope",
        "short_factor": factors,
        "long_factor": factors,
        "attention_factor": 1.0,
        "original_max_position_embeddings": 4096,
    }


def test_yarn() -> None:
    changes = {"rope__scaling__type": "yarn", "rope__scaling__factor": 4.0, "rope__scaling__yarn_beta_fast": 16.0}
    config = config_of("qwen2", rope__scaling__original_context_length=1024, **changes)
    expected = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 1024, "beta_fast": 16.0}
    assert config["rope_scaling"] == expected


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"expert_count": 8}, "experts"),
        ({"attention__value_length": 16}, "another width"),
        ({"rope__dimension_count": 16}, "16 of 32 dimensions rotated"),
        ({"rope__scaling__type": "longrope"}, "rope scaling 'longrope'"),
        ({"rope": {"rope_factors_long.weight": [1.0] * 16}}, "factors alone"),
        (
            {"rope": {"rope_freqs.weight": [1.0] * 16}, "rope__scaling__type": "linear", "rope__scaling__factor": 2.0},
            "and another rope scaling",
        ),
        ({"attention__sliding_window": 1024}, "a sliding window"),
        ({"logit_scale": 2.0}, "logit_scale set"),
        ({"attention__scale": 2.0}, r"attention\.scale set"),
        ({"final_logit_softcapping": 2.0}, "final_logit_softcapping set"),
    ],
)
def test_settings_that_would_be_computed_wrongly_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UnsupportedModelError, match=message):
        config_of("llama", **changes)


@pytest.mark.parametrize(
    ("architecture", "changes", "message"),
    [
        ("olmo2", {"attention__sliding_window": 1024}, "a sliding window"),
        ("stablelm", NEEDED["stablelm"] | {"tensors": ("blk.0.attn_q_norm.weight",)}, "norms for each head"),
        ("mamba", {}, "'mamba'; converted from GGUF are llama, qwen2"),
    ],
)
def test_variants_that_are_refused(architecture: str, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UnsupportedModelError, match=message):
        config_of(architecture, **changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"context_length": None}, r"no llama\.context_length"),
        ({"attention__head_count": 0}, r"head_count must be one integer, at least 1, not '0'"),
        ({"attention__head_count": np.array([2, 2])}, "must be one integer"),
        ({"attention__head_count_kv": 3}, "do not go with 3"),
        ({"attention__key_length": 33, "attention__value_length": 33}, "do not go with"),
        ({"block_count": 2**31}, "2147483648 layers, but 81 tensors"),
        ({"embedding_length": 63}, r"embedding_length is 63, token_embd\.weight has 64"),
        ({"attention__layer_norm_rms_epsilon": float("nan")}, "must be a finite number"),
        ({"rope": {"rope_freqs.weight": [1.0]}}, "has 1 factors, not 16"),
        ({"context_length": "long"}, "must be one integer"),
    ],
)
def test_contradictions_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        config_of("llama", **changes)


@pytest.mark.parametrize(
    ("architecture", "stored", "expected"),
    [
        ("llama", "blk.3.ffn_norm.weight", "model.layers.3.post_attention_layernorm.weight"),
        ("llama", "output.weight", "lm_head.weight"),
        ("gemma2", "blk.0.ffn_norm.weight", "model.layers.0.pre_feedforward_layernorm.weight"),
        ("gemma3", "blk.0.post_ffw_norm.weight", "model.layers.0.post_feedforward_layernorm.weight"),
        ("gemma3", "blk.0.attn_k_norm.weight", "model.layers.0.self_attn.k_norm.weight"),
        ("qwen3", "blk.0.attn_q_norm.weight", "model.layers.0.self_attn.q_norm.weight"),
        ("phi3", "blk.0.attn_qkv.weight", "model.layers.0.self_attn.qkv_proj.weight"),
        ("phi3", "blk.0.ffn_up.weight", "model.layers.0.mlp.gate_up_proj.weight"),
        ("olmo2", "blk.0.post_attention_norm.weight", "model.layers.0.post_attention_layernorm.weight"),
        ("stablelm", "output_norm.bias", "model.norm.bias"),
    ],
)
def test_names(architecture: str, stored: str, expected: str) -> None:
    assert hugging_face_names([stored, "rope_freqs.weight"], architecture, 4, "x") == {expected: stored}
