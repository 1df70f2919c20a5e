"""The members of the LLaMA family: what each makes of its Hugging Face configuration.

One table entry a model type: adding a member is adding an entry. Settings are those of ``DecoderSpec``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from edgelm.bundle.manifest import MAX_CONTEXT, MAX_HEAD_SIZE, MAX_HEADS, MAX_HIDDEN, MAX_LAYERS, MAX_VOCAB
from edgelm.errors import UnsupportedModelError
from edgelm_tools.architectures.config_fields import ConfigFields
from edgelm_tools.architectures.decoder_layers import ACTIVATIONS
from edgelm_tools.architectures.decoder_spec import Settings, divided_head_size
from edgelm_tools.architectures.rope import Rope, make_rope, rope_settings

_SLIDING, _FULL = "sliding_attention", "full_attention"
_QKV, _MLP = ("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True, slots=True)
class Member:
    """A model type.

    Attributes:
        settings: what it adds to the common settings, or sets otherwise.
        defaults: of transformers' class (4.57), for fields that ``config.json`` may leave out.
        activation: the field that names its activation.
    """

    settings: Callable[[ConfigFields], Settings]
    defaults: Mapping[str, Any] = field(default_factory=dict)
    activation: str = "hidden_act"


def common_settings(c: ConfigFields, member: Member) -> Settings:
    """The settings that all members read in the same way, but for ``ropes``."""
    heads = c.integer("num_attention_heads", most=MAX_HEADS)
    kv_heads = c.integer("num_key_value_heads", most=MAX_HEADS) if c.has("num_key_value_heads") else heads
    if heads % kv_heads:
        raise c.fault("num_key_value_heads", f"must divide the {heads} attention heads, not be {kv_heads}")
    layers, head_size = c.integer("num_hidden_layers", most=MAX_LAYERS), _head_size(c)
    hidden = c.integer("hidden_size", most=MAX_HIDDEN)
    return {
        "hidden_size": hidden,
        "embedding_size": hidden,
        "intermediate_size": c.integer("intermediate_size", most=MAX_HIDDEN),
        "layers": layers,
        "heads": heads,
        "kv_heads": kv_heads,
        "head_size": head_size,
        "vocab_size": c.integer("vocab_size", most=MAX_VOCAB),
        "context_length": c.integer("max_position_embeddings", most=MAX_CONTEXT),
        "norm_epsilon": c.real("rms_norm_eps", 1e-6),
        "activation": ACTIVATIONS[c.choice(member.activation, ACTIVATIONS)],
        "tied_embeddings": c.flag("tie_word_embeddings"),
        "windows": (None,) * layers,
        "attention_scale": 1 / math.sqrt(head_size),
    }


def plain_rope(c: ConfigFields) -> Rope:
    """The rotary embedding of a model that has one for all layers."""
    return _rope(c, rope_settings(c))


def _rope(c: ConfigFields, scaling: Mapping[str, Any], base: str = "rope_theta") -> Rope:
    return make_rope(c, head_size=_head_size(c), base=c.real(base, 10_000.0, above=1), scaling=scaling)


def _head_size(c: ConfigFields) -> int:
    if c.has("head_dim"):
        return c.integer("head_dim", most=MAX_HEAD_SIZE)
    return divided_head_size(c, "hidden_size", c.integer("hidden_size"), c.integer("num_attention_heads"))


def _attention_biases(c: ConfigFields) -> frozenset[str]:
    return frozenset((*_QKV, "o_proj") if c.flag("attention_bias") else ())


def _all_biases(c: ConfigFields) -> frozenset[str]:
    return _attention_biases(c) | frozenset(_MLP if c.flag("mlp_bias") else ())


def _layer_types(c: ConfigFields, is_sliding: Callable[[int], bool]) -> list[str]:
    layers = c.integer("num_hidden_layers")
    if not c.has("layer_types"):
        return [_SLIDING if is_sliding(i) else _FULL for i in range(layers)]
    types = c.list_of("layer_types", layers)
    return [ConfigFields({"layer_types": kind}, what=c.what).choice("layer_types", (_SLIDING, _FULL)) for kind in types]


def _windows(c: ConfigFields, types: list[str]) -> tuple[int | None, ...]:
    window = c.integer("sliding_window") if c.has("sliding_window") else None
    return tuple(window if kind == _SLIDING else None for kind in types)


def _llama(c: ConfigFields) -> Settings:
    return {"biased": _all_biases(c)}


def _mistral(c: ConfigFields) -> Settings:
    return {"windows": _windows(c, [_SLIDING] * c.integer("num_hidden_layers"))}


def _phi3(c: ConfigFields) -> Settings:
    # Its first checkpoints call the scaling by other names.
    scaling = dict(rope_settings(c))
    if scaling.get("type") in ("su", "yarn"):
        scaling["type"] = "longrope"
    return {**_mistral(c), "ropes": (_rope(c, scaling),) * c.integer("num_hidden_layers")}


def _qwen_windows(c: ConfigFields) -> Settings:
    if not c.flag("use_sliding_window"):
        return {}
    first = c.integer("max_window_layers", least=0)
    return {"windows": _windows(c, _layer_types(c, lambda i: i >= first))}


def _qwen2(c: ConfigFields) -> Settings:
    return {**_qwen_windows(c), "biased": frozenset(_QKV)}


def _qwen3(c: ConfigFields) -> Settings:
    return {**_qwen_windows(c), "biased": _attention_biases(c), "qk_norm": "head"}


def _gemma(c: ConfigFields) -> Settings:
    scale = math.sqrt(c.integer("hidden_size"))
    return {"norm_offset": 1.0, "embedding_scale": scale, "biased": _attention_biases(c)}


def _gemma2(c: ConfigFields) -> Settings:
    return {
        **_gemma(c),
        "windows": _windows(c, _layer_types(c, lambda i: i % 2 == 0)),
        "residual": "sandwich",
        "attention_scale": c.real("query_pre_attn_scalar") ** -0.5,
        "attention_softcap": c.real("attn_logit_softcapping", 0.0),
        "logit_softcap": c.real("final_logit_softcapping", 0.0),
    }


def _gemma3(c: ConfigFields) -> Settings:
    if c.flag("use_bidirectional_attention"):
        raise UnsupportedModelError("a gemma3_text with use_bidirectional_attention is an encoder, not a decoder")
    if c.has("attn_logit_softcapping"):
        # transformers 4.57 ignores it, so that there is no reference to be right against.
        raise UnsupportedModelError("a gemma3_text with attn_logit_softcapping is not built natively")
    pattern = c.integer("sliding_window_pattern")
    types = _layer_types(c, lambda i: (i + 1) % pattern != 0)
    by_type = ConfigFields(c.object("rope_parameters"), what=f"{c.what}: rope_parameters")
    near = _rope(c, by_type.object(_SLIDING), "rope_local_base_freq")
    far = _rope(c, rope_settings(c, by_type.object(_FULL)))
    return {
        **_gemma2(c),
        "windows": _windows(c, types),
        "qk_norm": "head",
        "ropes": tuple(near if kind == _SLIDING else far for kind in types),
    }


def _granite(c: ConfigFields) -> Settings:
    return {
        "biased": _all_biases(c),
        "embedding_scale": c.real("embedding_multiplier", 1.0),
        "attention_scale": c.real("attention_multiplier", 1.0),
        "residual_scale": c.real("residual_multiplier", 1.0),
        "logit_scale": 1 / c.real("logits_scaling", 1.0),
    }


def _olmo2(c: ConfigFields) -> Settings:
    return {"residual": "post", "qk_norm": "projection", "biased": _attention_biases(c)}


def _smollm3(c: ConfigFields) -> Settings:
    layers, interval = c.integer("num_hidden_layers"), c.integer("no_rope_layer_interval")
    with_rope = [(i + 1) % interval != 0 for i in range(layers)]
    if c.has("no_rope_layers"):
        with_rope = [bool(on) for on in c.list_of("no_rope_layers", layers)]
    slides, rope = c.flag("use_sliding_window"), plain_rope(c)
    return {
        "biased": _all_biases(c),
        "ropes": tuple(rope if on else None for on in with_rope),
        "windows": _windows(c, _layer_types(c, lambda i: slides and not with_rope[i])),
    }


def _stablelm(c: ConfigFields) -> Settings:
    if c.flag("qk_layernorm"):
        raise UnsupportedModelError("a stablelm with qk_layernorm is not built natively")
    return {
        "norm": "layer",
        "norm_epsilon": c.real("layer_norm_eps", 1e-5),
        "residual": "parallel" if c.flag("use_parallel_residual") else "pre",
        "biased": frozenset(_QKV if c.flag("use_qkv_bias") else ()),
    }


_SILU = {"hidden_act": "silu"}
_LLAMA = {**_SILU, "bos_token_id": 1, "eos_token_id": 2}
_QWEN = {**_SILU, "num_key_value_heads": 32, "sliding_window": 4096, "max_window_layers": 28}
_TANH = {
    "tie_word_embeddings": True,
    "head_dim": 256,
    "hidden_act": "gelu_pytorch_tanh",
    "pad_token_id": 0,
    "eos_token_id": 1,
    "bos_token_id": 2,
}
_GEMMA2 = {
    **_TANH,
    "num_key_value_heads": 4,
    "hidden_activation": "gelu_pytorch_tanh",
    "query_pre_attn_scalar": 256,
    "sliding_window": 4096,
}
# The text part of a Gemma 3 with vision gives only what differs from these.
_GEMMA3 = {
    **_GEMMA2,
    "vocab_size": 262_208,
    "num_attention_heads": 8,
    "max_position_embeddings": 131_072,
    "rope_theta": 1e6,
    "rope_local_base_freq": 1e4,
    "sliding_window_pattern": 6,
}
MEMBERS: dict[str, Member] = {
    "llama": Member(_llama, _LLAMA),
    "mistral": Member(_mistral, {**_LLAMA, "num_key_value_heads": 8, "sliding_window": 4096}),
    "qwen2": Member(_qwen2, _QWEN),
    "qwen3": Member(_qwen3, {**_QWEN, "head_dim": 128}),
    "phi3": Member(
        _phi3,
        {
            **_SILU,
            "rms_norm_eps": 1e-5,
            "original_max_position_embeddings": 4096,
            "bos_token_id": 1,
            "eos_token_id": 32_000,
            "pad_token_id": 32_000,
        },
    ),
    "gemma": Member(_gemma, {**_TANH, "num_key_value_heads": 16}),
    "gemma2": Member(
        _gemma2,
        {**_GEMMA2, "attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0},
        activation="hidden_activation",
    ),
    "gemma3_text": Member(_gemma3, _GEMMA3, activation="hidden_activation"),
    "granite": Member(_granite, _LLAMA),
    "olmo2": Member(_olmo2, {**_SILU, "rms_norm_eps": 1e-5, "eos_token_id": 50_279, "pad_token_id": 1}),
    "smollm3": Member(
        _smollm3,
        {
            **_SILU,
            "num_key_value_heads": 4,
            "rope_theta": 2e6,
            "no_rope_layer_interval": 4,
            "tie_word_embeddings": True,
            "bos_token_id": 128_000,
            "eos_token_id": 128_001,
            "pad_token_id": 128_004,
        },
    ),
    "stablelm": Member(
        _stablelm,
        {
            **_SILU,
            "num_key_value_heads": 32,
            "partial_rotary_factor": 0.25,
            "bos_token_id": 0,
            "eos_token_id": 0,
        },
    ),
}
