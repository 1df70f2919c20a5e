"""Tiny GPT-family checkpoints, as ``tiny_checkpoints`` has them of the LLaMA family."""

from __future__ import annotations

from typing import Any

from support.tiny_checkpoints import WEIGHT_SPREAD, Variant

_TIED = {"tie_word_embeddings": True}
_OPT = {"ffn_dim": 84, "init_std": WEIGHT_SPREAD, "activation_function": "relu"}
_POST = {**_OPT, "do_layer_norm_before": False}


def _variant(name: str, **settings: Any) -> Variant:
    return Variant(name, name.split(".")[0], settings)


GPT_VARIANTS = (
    _variant("gpt2", **_TIED, layer_norm_epsilon=3e-3),
    _variant("gpt2.untied", n_inner=52, activation_function="gelu", hidden_size=60, num_attention_heads=5),
    _variant("gpt2.scales", **_TIED, scale_attn_by_inverse_layer_idx=True, activation_function="relu"),
    _variant("gpt2.unscaled", scale_attn_weights=False, initializer_range=0.1, activation_function="quick_gelu"),
    _variant("gpt2.one_layer", **_TIED, num_hidden_layers=1, num_attention_heads=3, activation_function="silu"),
    _variant("gpt_neox", rotary_pct=0.5),
    _variant(
        "gpt_neox.sequential", rotary_pct=0.25, hidden_size=80, num_attention_heads=5, use_parallel_residual=False
    ),
    _variant("gpt_neox.no_biases", rotary_pct=1.0, attention_bias=False, rotary_emb_base=500, hidden_act="gelu_new"),
    _variant("gpt_neox.wide", rotary_pct=0.34, hidden_size=96, num_attention_heads=4, **_TIED, hidden_act="gelu_fast"),
    _variant("gpt_neox.linear", rotary_pct=0.5, rope_scaling={"rope_type": "linear", "factor": 2.0}),
    _variant("opt", **_OPT, **_TIED),
    _variant("opt.post", **_POST, hidden_size=60, num_attention_heads=5),
    _variant("opt.projected", **_OPT, **_TIED, word_embed_proj_dim=44),
    _variant("opt.projected_post", **_POST, **_TIED, word_embed_proj_dim=40),
    _variant("opt.no_final_norm", **_OPT, _remove_final_layer_norm=True),
    _variant("opt.no_biases", **_OPT | {"activation_function": "gelu"}, **_TIED, enable_bias=False),
    _variant("bloom", **_TIED),
    _variant("bloom.four_heads", **_TIED, num_attention_heads=4, layer_norm_epsilon=3e-3),
    _variant("bloom.five_heads", hidden_size=80, num_attention_heads=5),
    _variant("bloom.one_head", **_TIED, hidden_size=40, num_attention_heads=1, num_hidden_layers=2),
    _variant("bloom.normed_residual", **_TIED, apply_residual_connection_post_layernorm=True),
)
"""Left out is ``layer_norm_elementwise_affine`` of OPT: transformers 4.57 cannot make a model without it."""


def gpt_variant(name: str) -> Variant:
    """The variant of that name."""
    return next(v for v in GPT_VARIANTS if v.name == name)
