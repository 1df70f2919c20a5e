"""The members of the GPT family: what each makes of its Hugging Face configuration.

One table entry a model type. Settings are those of ``GptSpec``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from edgelm.bundle.manifest import MAX_CONTEXT, MAX_HEADS, MAX_HIDDEN, MAX_LAYERS, MAX_VOCAB
from edgelm.errors import UnsupportedModelError
from edgelm_tools.architectures.config_fields import ConfigFields
from edgelm_tools.architectures.decoder_layers import ACTIVATIONS, Activation
from edgelm_tools.architectures.decoder_spec import Settings, divided_head_size
from edgelm_tools.architectures.rope import make_rope, rope_settings


@dataclass(frozen=True, slots=True)
class Member:
    """A model type.

    Attributes:
        settings: what it adds to the common settings, which it is given, or sets otherwise.
        defaults: of transformers' class (4.57), for fields that ``config.json`` may leave out.
        fields: what else than by their usual names its files call the sizes.
    """

    settings: Callable[[ConfigFields, Settings], Settings]
    defaults: Mapping[str, Any]
    fields: Mapping[str, str] = field(default_factory=dict)

    def name(self, c: ConfigFields, usual: str) -> str:
        """What this configuration calls a field."""
        return usual if c.has(usual) or usual not in self.fields else self.fields[usual]


def common_settings(c: ConfigFields, member: Member) -> Settings:
    """The settings that all members read in the same way."""
    hidden = c.integer(member.name(c, "hidden_size"), most=MAX_HIDDEN)
    heads = c.integer(member.name(c, "num_attention_heads"), most=MAX_HEADS)
    layers = c.integer(member.name(c, "num_hidden_layers"), most=MAX_LAYERS)
    head_size = divided_head_size(c, member.name(c, "hidden_size"), hidden, heads)
    return {
        "hidden_size": hidden,
        "embedding_size": hidden,
        "intermediate_size": 4 * hidden,
        "layers": layers,
        "heads": heads,
        "kv_heads": heads,
        "head_size": head_size,
        "vocab_size": c.integer("vocab_size", most=MAX_VOCAB),
        "context_length": c.integer(member.name(c, "max_position_embeddings"), most=MAX_CONTEXT),
        "norm_epsilon": 1e-5,
        "tied_embeddings": c.flag("tie_word_embeddings", default=True),
        "attention_scales": (1 / math.sqrt(head_size),) * layers,
    }


def _gpt2(c: ConfigFields, common: Settings) -> Settings:
    if c.flag("add_cross_attention"):
        raise UnsupportedModelError(f"{c.what}: a gpt2 with add_cross_attention is half of an encoder-decoder")
    scales = common["attention_scales"] if c.flag("scale_attn_weights") else (1.0,) * common["layers"]
    if c.flag("scale_attn_by_inverse_layer_idx"):
        scales = tuple(scale / (i + 1) for i, scale in enumerate(scales))
    inner = c.integer("n_inner", most=MAX_HIDDEN) if c.has("n_inner") else common["intermediate_size"]
    return {
        "intermediate_size": inner,
        "norm_epsilon": c.real("layer_norm_epsilon"),
        "activation": _activation(c, "activation_function"),
        "attention_scales": scales,
        "positions": "learned",
    }


def _gpt_neox(c: ConfigFields, common: Settings) -> Settings:
    context = common["context_length"]
    usual = {"partial_rotary_factor": c.real("rotary_pct"), "max_position_embeddings": context}
    rope = make_rope(
        ConfigFields(usual, what=c.what),
        head_size=common["head_size"],
        base=c.real("rotary_emb_base", above=1),
        scaling=rope_settings(c),
    )
    return {
        "intermediate_size": c.integer("intermediate_size", most=MAX_HIDDEN),
        "norm_epsilon": c.real("layer_norm_eps"),
        "activation": _activation(c, "hidden_act"),
        "residual": "parallel" if c.flag("use_parallel_residual") else "pre",
        "attention_bias": c.flag("attention_bias"),
        "context_length": min(context, rope.context_length or context),
        "positions": "rotary",
        "rope": rope,
    }


def _opt(c: ConfigFields, common: Settings) -> Settings:
    before = c.flag("do_layer_norm_before")
    projected = c.has("word_embed_proj_dim")
    return {
        "embedding_size": c.integer("word_embed_proj_dim", most=MAX_HIDDEN) if projected else common["hidden_size"],
        "intermediate_size": c.integer("ffn_dim", most=MAX_HIDDEN),
        "activation": _activation(c, "activation_function"),
        "residual": "pre" if before else "post",
        # Without norms before the sublayers, the stream is normed already after the last one.
        "final_norm": before and not c.flag("_remove_final_layer_norm"),
        "norm_weights": c.flag("layer_norm_elementwise_affine"),
        "attention_bias": c.flag("enable_bias"),
        "mlp_bias": c.flag("enable_bias"),
        "positions": "learned",
    }


def _bloom(c: ConfigFields, _: Settings) -> Settings:
    if c.flag("slow_but_exact") and c.integer("pretraining_tp") > 1:
        # transformers then leaves two biases out; no such model has been published.
        raise UnsupportedModelError(f"{c.what}: a bloom with slow_but_exact and pretraining_tp above 1 is not known")
    return {
        "norm_epsilon": c.real("layer_norm_epsilon"),
        "activation": "gelu_tanh",
        "residual": "normed" if c.flag("apply_residual_connection_post_layernorm") else "pre",
        "embedding_norm": True,
        "positions": "alibi",
    }


def _activation(c: ConfigFields, name: str) -> Activation:
    return ACTIVATIONS[c.choice(name, ACTIVATIONS)]


MEMBERS: dict[str, Member] = {
    "gpt2": Member(
        _gpt2,
        {
            "layer_norm_epsilon": 1e-5,
            "activation_function": "gelu_new",
            "scale_attn_weights": True,
            "bos_token_id": 50_256,
            "eos_token_id": 50_256,
        },
        {
            "hidden_size": "n_embd",
            "num_attention_heads": "n_head",
            "num_hidden_layers": "n_layer",
            "max_position_embeddings": "n_positions",
        },
    ),
    "gpt_neox": Member(
        _gpt_neox,
        {
            "layer_norm_eps": 1e-5,
            "hidden_act": "gelu",
            "rotary_pct": 0.25,
            "rotary_emb_base": 10_000,
            "use_parallel_residual": True,
            "attention_bias": True,
            "tie_word_embeddings": False,
            "bos_token_id": 0,
            "eos_token_id": 2,
        },
    ),
    "opt": Member(
        _opt,
        {
            "activation_function": "relu",
            "do_layer_norm_before": True,
            "enable_bias": True,
            "layer_norm_elementwise_affine": True,
            "pad_token_id": 1,
            "bos_token_id": 2,
            "eos_token_id": 2,
        },
    ),
    "bloom": Member(
        _bloom,
        # Any length can be computed; this is the one that the published models were trained on.
        {"layer_norm_epsilon": 1e-5, "pretraining_tp": 1, "seq_length": 2048, "bos_token_id": 1, "eos_token_id": 2},
        {
            "hidden_size": "n_embed",
            "num_attention_heads": "n_head",
            "num_hidden_layers": "n_layer",
            "max_position_embeddings": "seq_length",
        },
    ),
}
