"""Configurations of the GPT family: defaults are transformers', and what is not built is refused by name."""

from __future__ import annotations

import math
import warnings
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.gpt_tensors import GPT_CONFIGS, gpt_config

from edgelm.errors import ModelError, UnsupportedModelError
from edgelm_tools.architectures.gpt_members import MEMBERS
from edgelm_tools.architectures.gpt_spec import GptSpec, gpt_spec
from edgelm_tools.architectures.registry import ARCHITECTURES

# What every config.json has; transformers has defaults for these too, but those of one certain model.
SIZES = {
    "gpt2": {"vocab_size", "n_embd", "n_layer", "n_head", "n_positions"},
    "gpt_neox": {
        "vocab_size",
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "max_position_embeddings",
    },
    "opt": {
        "vocab_size",
        "hidden_size",
        "ffn_dim",
        "num_hidden_layers",
        "num_attention_heads",
        "max_position_embeddings",
    },
    "bloom": {"vocab_size", "hidden_size", "n_layer", "n_head"},
}
EACH_SIZE = [
    (model_type, name)
    for model_type, config in GPT_CONFIGS.items()
    for name in sorted(config.keys() - {"rotary_pct", "word_embed_proj_dim", "seq_length"})
]


def spec_of(model_type: str, **settings: Any) -> GptSpec:
    return gpt_spec(gpt_config(model_type, **settings))


def test_every_member_is_in_the_registry() -> None:
    assert set(MEMBERS) <= set(ARCHITECTURES)
    assert set(MEMBERS) == set(GPT_CONFIGS)


@pytest.mark.reference
@pytest.mark.parametrize("model_type", MEMBERS)
def test_a_field_that_is_left_out_has_the_default_of_transformers(model_type: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from transformers import AutoConfig

        config: dict[str, Any] = AutoConfig.for_model(model_type).to_dict()
    # It stands where the embeddings are as wide as the stream, which is what its absence says.
    sizes = SIZES[model_type] | {"model_type"}
    whole = gpt_spec(config)
    for name in config.keys() - sizes:
        assert gpt_spec({key: value for key, value in config.items() if key != name}) == whole, name
    assert gpt_spec({key: config[key] for key in sizes}) == whole


@pytest.mark.parametrize("model_type", ["llama", "gptj", "", None, 7, ["gpt2"]])
def test_other_model_types_are_refused_by_name(model_type: Any) -> None:
    with pytest.raises(UnsupportedModelError, match=r"is not built natively; of this family are: gpt2, gpt_neox, opt"):
        gpt_spec({**GPT_CONFIGS["gpt2"], "model_type": model_type})


@pytest.mark.parametrize(("model_type", "name"), EACH_SIZE)
def test_a_missing_size_is_named(model_type: str, name: str) -> None:
    config = gpt_config(model_type)
    del config[name]
    with pytest.raises(UnsupportedModelError, match=f"config.json lacks '{name}', which is needed"):
        gpt_spec(config)


@pytest.mark.parametrize(("model_type", "name"), EACH_SIZE)
@given(value=st.sampled_from([0, -1, 2.0, "8", True, [], {}, 10**12]))
@settings(deadline=None)
def test_a_size_of_the_wrong_type_or_range_is_named(model_type: str, name: str, value: Any) -> None:
    with pytest.raises(ModelError, match=f"config.json: {name} must be a whole number from 1 to"):
        spec_of(model_type, **{name: value})


@pytest.mark.parametrize(
    ("model_type", "settings", "message"),
    [
        ("gpt2", {"activation_function": "mish"}, "activation_function 'mish' is not known; known are relu, tanh"),
        ("gpt2", {"add_cross_attention": True}, "add_cross_attention"),
        ("gpt_neox", {"hidden_act": "gelu_10"}, "hidden_act 'gelu_10' is not known"),
        ("gpt_neox", {"rope_scaling": {"type": "mrope"}}, "'mrope'"),
        ("gpt_neox", {"rotary_pct": 0.3}, "partial_rotary_factor 0.3 rotates 3 of a head's 12 values"),
        ("gpt_neox", {"rotary_pct": 1.5}, "partial_rotary_factor 1.5 rotates 18"),
        ("opt", {"activation_function": "prelu"}, "activation_function 'prelu' is not known"),
        ("bloom", {"slow_but_exact": True, "pretraining_tp": 2}, "slow_but_exact and pretraining_tp above 1"),
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
        ("gpt2", {"n_head": 5}, "n_embd of 24 makes no 5 heads"),
        ("gpt2", {"n_inner": 0}, "n_inner must be a whole number"),
        ("gpt2", {"layer_norm_epsilon": 0}, "layer_norm_epsilon must be a number above 0"),
        ("gpt2", {"scale_attn_weights": 1}, "scale_attn_weights must be true or false"),
        ("gpt_neox", {"num_attention_heads": 7}, "hidden_size of 24 makes no 7 heads"),
        ("gpt_neox", {"rotary_emb_base": 1}, "rotary_emb_base must be a number above 1"),
        ("gpt_neox", {"rope_parameters": {"rope_theta": 1}}, "rope_theta must be a number above 1"),
        ("gpt_neox", {"use_parallel_residual": "no"}, "use_parallel_residual must be true or false"),
        ("opt", {"word_embed_proj_dim": 0}, "word_embed_proj_dim must be a whole number"),
        ("opt", {"do_layer_norm_before": 0}, "do_layer_norm_before must be true or false"),
        ("bloom", {"seq_length": "long"}, "seq_length must be a whole number"),
        ("bloom", {"layer_norm_epsilon": "small"}, "layer_norm_epsilon must be a number"),
    ],
)
def test_malformed_settings_are_named(model_type: str, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        spec_of(model_type, **settings)


@pytest.mark.parametrize(
    ("model_type", "usual"),
    [
        (
            "gpt2",
            {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "max_position_embeddings": 64},
        ),
        (
            "bloom",
            {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "max_position_embeddings": 64},
        ),
    ],
)
def test_sizes_may_go_by_the_names_that_other_models_use(model_type: str, usual: dict[str, int]) -> None:
    assert gpt_spec({"model_type": model_type, "vocab_size": 50, **usual}) == spec_of(model_type)


def test_rotary_settings_may_stand_together_as_newer_files_have_them() -> None:
    older = {"rotary_pct": 0.5, "rotary_emb_base": 500, "rope_scaling": {"rope_type": "linear", "factor": 2.0}}
    together = {"rope_type": "linear", "factor": 2.0, "rope_theta": 500, "partial_rotary_factor": 0.5}
    config = gpt_config("gpt_neox", rope_parameters=together)
    del config["rotary_pct"]
    assert gpt_spec(config) == spec_of("gpt_neox", **older)


@pytest.mark.parametrize(
    ("settings", "scales"),
    [
        ({}, (1 / math.sqrt(12), 1 / math.sqrt(12))),
        ({"scale_attn_weights": False}, (1, 1)),
        ({"scale_attn_by_inverse_layer_idx": True}, (1 / math.sqrt(12), 1 / math.sqrt(12) / 2)),
    ],
)
def test_scales_of_attention_by_layer(settings: dict[str, Any], scales: tuple[float, float]) -> None:
    assert spec_of("gpt2", **settings).attention_scales == pytest.approx(scales)


@pytest.mark.parametrize(
    ("settings", "residual", "final_norm"),
    [
        ({}, "pre", True),
        ({"_remove_final_layer_norm": True}, "pre", False),
        ({"do_layer_norm_before": False}, "post", False),
        ({"do_layer_norm_before": False, "_remove_final_layer_norm": True}, "post", False),
    ],
)
def test_where_an_opt_has_its_norms(settings: dict[str, Any], residual: str, final_norm: bool) -> None:
    spec = spec_of("opt", **settings)
    assert (spec.residual, spec.final_norm) == (residual, final_norm)


def test_a_context_that_is_scaled_dynamically_ends_where_the_model_was_trained() -> None:
    spec = spec_of("gpt_neox", rope_scaling={"type": "dynamic", "factor": 2.0})
    assert spec.context_length == 64
