"""Configurations of the LLaMA family: defaults are transformers', and what is not built is refused by name."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.memory_checkpoint import LLAMA_CONFIG

from edgelm.errors import ModelError, UnsupportedModelError
from edgelm_tools.architectures.llama_members import MEMBERS
from edgelm_tools.architectures.llama_spec import LlamaSpec, llama_spec

# What every config.json has; transformers has defaults for these too, but those of one certain model.
SIZES = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "max_position_embeddings",
)
SLIDING, FULL = "sliding_attention", "full_attention"


def spec_of(model_type: str = "llama", **settings: Any) -> LlamaSpec:
    return llama_spec({**LLAMA_CONFIG, "model_type": model_type, **settings})


def defaults_of_transformers(model_type: str, **settings: Any) -> dict[str, Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from transformers import AutoConfig

        values: dict[str, Any] = AutoConfig.for_model(model_type, **settings).to_dict()
    return values


SLIDES = {"use_sliding_window": True}


@pytest.mark.reference
@pytest.mark.parametrize(
    ("model_type", "kept"),
    [*((name, {}) for name in MEMBERS), ("qwen2", SLIDES), ("qwen3", SLIDES), ("smollm3", SLIDES)],
)
def test_a_field_that_is_left_out_has_the_default_of_transformers(model_type: str, kept: dict[str, Any]) -> None:
    config = defaults_of_transformers(model_type, **kept)
    whole = llama_spec(config)
    for name in config.keys() - {"model_type", *SIZES, *kept}:
        assert llama_spec({key: value for key, value in config.items() if key != name}) == whole, name
    assert llama_spec({key: config[key] for key in ("model_type", *SIZES, *kept)}) == whole


@pytest.mark.reference
def test_the_text_part_of_a_gemma3_with_vision_may_be_almost_empty() -> None:
    text = {"hidden_size": 96, "intermediate_size": 100, "num_hidden_layers": 7}
    spec = llama_spec({"model_type": "gemma3", "text_config": text})
    assert spec == llama_spec(defaults_of_transformers("gemma3_text", **text))
    assert spec.model_type == "gemma3_text"


@pytest.mark.parametrize("model_type", ["llava", "t5", "", None, 7, ["llama"]])
def test_other_model_types_are_refused_by_name(model_type: Any) -> None:
    with pytest.raises(UnsupportedModelError, match=r"is not built natively; of this family are: llama, mistral"):
        llama_spec({**LLAMA_CONFIG, "model_type": model_type})


@pytest.mark.parametrize("name", SIZES)
def test_a_missing_size_is_named(name: str) -> None:
    with pytest.raises(UnsupportedModelError, match=f"config.json lacks '{name}', which is needed"):
        llama_spec({key: value for key, value in LLAMA_CONFIG.items() if key != name})


@pytest.mark.parametrize("name", SIZES)
@given(value=st.sampled_from([0, -1, 2.0, "8", True, [], {}, 10**12]))
@settings(deadline=None)
def test_a_size_of_the_wrong_type_or_range_is_named(name: str, value: Any) -> None:
    with pytest.raises(ModelError, match=f"config.json: {name} must be a whole number from 1 to"):
        spec_of(**{name: value})


@pytest.mark.parametrize(
    ("model_type", "settings", "message"),
    [
        ("llama", {"hidden_act": "relu2"}, "hidden_act 'relu2' is not known; known are relu, tanh, silu, swish"),
        ("llama", {"hidden_act": None}, "lacks 'hidden_act'"),
        ("gemma2", {"hidden_activation": "relu2"}, "hidden_activation 'relu2' is not known"),
        ("stablelm", {"qk_layernorm": True}, "qk_layernorm"),
        ("gemma3_text", {"use_bidirectional_attention": True}, "use_bidirectional_attention"),
        ("gemma3_text", {"attn_logit_softcapping": 50.0}, "attn_logit_softcapping"),
        ("qwen2", {"use_sliding_window": True, "layer_types": [FULL, "chunked_attention"]}, "'chunked_attention'"),
        ("llama", {"rope_scaling": {"rope_type": "mrope"}}, "'mrope'"),
        ("llama", {"partial_rotary_factor": 0.3}, "partial_rotary_factor 0.3 rotates 3 of a head's 12 values"),
    ],
)
def test_settings_that_are_not_built_are_refused_by_name(
    model_type: str, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(UnsupportedModelError, match=message):
        spec_of(model_type, **settings)


@pytest.mark.parametrize(
    ("model_type", "settings", "message"),
    [
        ("llama", {"num_attention_heads": 4, "num_key_value_heads": 3}, "num_key_value_heads must divide the 4"),
        ("llama", {"num_attention_heads": 5}, "hidden_size of 24 makes no 5 heads"),
        ("llama", {"attention_bias": "yes"}, "attention_bias must be true or false"),
        ("llama", {"rms_norm_eps": 0}, "rms_norm_eps must be a number above 0"),
        ("llama", {"rope_theta": 1.0}, "rope_theta must be a number above 1"),
        ("llama", {"rope_scaling": "linear"}, "rope_scaling must be an object, not 'linear'"),
        ("mistral", {"sliding_window": 0, "num_key_value_heads": 1}, "sliding_window must be a whole number"),
        ("qwen2", {"use_sliding_window": True, "layer_types": [FULL]}, "layer_types must be a list of 2"),
        ("gemma3", {"text_config": None}, "lacks"),
        ("gemma3", {"text_config": [1]}, "text_config must be an object"),
        ("granite", {"logits_scaling": 0}, "logits_scaling must be a number above 0"),
        ("smollm3", {"no_rope_layers": [1]}, "no_rope_layers must be a list of 2"),
        ("gemma2", {"query_pre_attn_scalar": -1}, "query_pre_attn_scalar must be a number above 0"),
    ],
)
def test_malformed_settings_are_named(model_type: str, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        spec_of(model_type, **settings)


@pytest.mark.parametrize(
    ("model_type", "settings", "windows"),
    [
        ("llama", {"sliding_window": 8}, (None, None)),
        ("mistral", {"sliding_window": 8}, (8, 8)),
        ("mistral", {"sliding_window": None}, (None, None)),
        ("phi3", {"sliding_window": 8}, (8, 8)),
        ("qwen2", {"sliding_window": 8, "max_window_layers": 1}, (None, None)),
        ("qwen2", {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1}, (None, 8)),
        ("qwen3", {"use_sliding_window": True, "sliding_window": 8, "layer_types": [SLIDING, FULL]}, (8, None)),
        ("gemma2", {"sliding_window": 8}, (8, None)),
        ("gemma3_text", {"sliding_window": 8, "sliding_window_pattern": 2}, (8, None)),
        ("gemma3_text", {"sliding_window": 8}, (8, 8)),
        ("smollm3", {"sliding_window": 8, "use_sliding_window": True, "no_rope_layers": [1, 0]}, (None, 8)),
        ("smollm3", {"sliding_window": 8, "no_rope_layers": [1, 0]}, (None, None)),
    ],
)
def test_windows_by_layer(model_type: str, settings: dict[str, Any], windows: tuple[int | None, ...]) -> None:
    assert spec_of(model_type, num_key_value_heads=1, **settings).windows == windows


def test_context_ends_where_the_rotary_embedding_does() -> None:
    scaling = {"type": "su", "short_factor": [1.0] * 6, "long_factor": [2.0] * 6}
    spec = spec_of("phi3", rope_scaling=scaling, original_max_position_embeddings=16)
    assert spec.context_length == 16
    assert spec_of("phi3", original_max_position_embeddings=16).context_length == 64


def test_base_and_scaling_may_stand_together_as_newer_files_have_them() -> None:
    older = {"rope_theta": 500.0, "rope_scaling": {"rope_type": "linear", "factor": 2.0}}
    newer = {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 500.0}}
    assert spec_of(**newer) == spec_of(**older)
    older = {"rope_theta": 500.0, "rope_local_base_freq": 50.0, "rope_scaling": {"rope_type": "linear", "factor": 2.0}}
    newer = {
        "rope_parameters": {
            SLIDING: {"rope_type": "default", "rope_theta": 50.0},
            FULL: {"rope_type": "linear", "factor": 2.0, "rope_theta": 500.0},
        }
    }
    assert spec_of("gemma3_text", **newer) == spec_of("gemma3_text", **older)


def test_settings_of_newer_files_are_honoured_wherever_they_stand() -> None:
    assert spec_of(rope_scaling={"rope_type": "default", "rope_theta": 500.0}) == spec_of(rope_theta=500.0)
    assert spec_of(rope_parameters={"partial_rotary_factor": 0.5}) == spec_of(partial_rotary_factor=0.5)
    linear = {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}
    near, far = spec_of("gemma3_text", sliding_window_pattern=2, rope_parameters={SLIDING: linear}).ropes
    assert near == spec_of(rope_scaling=linear, head_dim=256).ropes[0]
    assert far == spec_of(rope_theta=1e6, head_dim=256).ropes[0]


def test_special_tokens_are_the_file_s_and_then_those_of_its_class() -> None:
    assert spec_of().special_tokens == {"bos_token_id": 1, "eos_token_id": 2}
    assert spec_of(bos_token_id=None, eos_token_id=[3, 4]).special_tokens == {"eos_token_id": [3, 4]}
    # The vocabulary of these has no such tokens.
    assert spec_of("phi3").special_tokens == {"bos_token_id": 1}
    assert spec_of("qwen2", num_key_value_heads=1).special_tokens == {}
    vision = {"model_type": "gemma3", "text_config": {**LLAMA_CONFIG, "eos_token_id": [1, 7]}}
    assert llama_spec(vision).special_tokens == {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": [1, 7]}


def test_each_member_says_which_projections_may_have_a_bias() -> None:
    qkv, every = {"q_proj", "k_proj", "v_proj"}, {"attention_bias": True, "mlp_bias": True}
    mlp = {"gate_proj", "up_proj", "down_proj"}
    assert spec_of("llama", **every).biased == qkv | {"o_proj"} | mlp
    assert spec_of("qwen2", num_key_value_heads=1).biased == qkv
    assert spec_of("qwen3", **every).biased == qkv | {"o_proj"}
    assert spec_of("mistral", **every).biased == set()
    assert spec_of("stablelm", use_qkv_bias=True, partial_rotary_factor=0.5).biased == qkv
