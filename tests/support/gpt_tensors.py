"""Configurations and tensors of tiny GPT-family checkpoints, in NumPy alone; names are those of published models."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

GPT_CONFIGS: dict[str, dict[str, Any]] = {
    "gpt2": {"vocab_size": 50, "n_embd": 24, "n_layer": 2, "n_head": 2, "n_positions": 64},
    "gpt_neox": {
        "vocab_size": 50,
        "hidden_size": 24,
        "intermediate_size": 40,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "max_position_embeddings": 64,
        "rotary_pct": 0.5,
    },
    "opt": {
        "vocab_size": 50,
        "hidden_size": 24,
        "ffn_dim": 40,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "max_position_embeddings": 64,
        "word_embed_proj_dim": 16,
    },
    "bloom": {"vocab_size": 50, "n_embed": 24, "n_layer": 2, "n_head": 2, "seq_length": 64},
}

_HIDDEN, _INNER = 24, 40
_LAYERS = {
    "gpt2": {
        "ln_1": (),
        "attn.c_attn": (_HIDDEN, 3 * _HIDDEN),
        "attn.c_proj": (_HIDDEN, _HIDDEN),
        "ln_2": (),
        "mlp.c_fc": (_HIDDEN, 4 * _HIDDEN),
        "mlp.c_proj": (4 * _HIDDEN, _HIDDEN),
    },
    "gpt_neox": {
        "input_layernorm": (),
        "post_attention_layernorm": (),
        "attention.query_key_value": (3 * _HIDDEN, _HIDDEN),
        "attention.dense": (_HIDDEN, _HIDDEN),
        "mlp.dense_h_to_4h": (_INNER, _HIDDEN),
        "mlp.dense_4h_to_h": (_HIDDEN, _INNER),
    },
    "opt": {
        **{f"self_attn.{kind}_proj": (_HIDDEN, _HIDDEN) for kind in ("q", "k", "v", "out")},
        "self_attn_layer_norm": (),
        "fc1": (_INNER, _HIDDEN),
        "fc2": (_HIDDEN, _INNER),
        "final_layer_norm": (),
    },
    "bloom": {
        "input_layernorm": (),
        "self_attention.query_key_value": (3 * _HIDDEN, _HIDDEN),
        "self_attention.dense": (_HIDDEN, _HIDDEN),
        "post_attention_layernorm": (),
        "mlp.dense_h_to_4h": (4 * _HIDDEN, _HIDDEN),
        "mlp.dense_4h_to_h": (_HIDDEN, 4 * _HIDDEN),
    },
}
_OUTSIDE: dict[str, dict[str, tuple[int, ...]]] = {
    "gpt2": {"wte.weight": (50, _HIDDEN), "wpe.weight": (64, _HIDDEN)},
    "gpt_neox": {"embed_in.weight": (50, _HIDDEN)},
    "opt": {
        "embed_tokens.weight": (50, 16),
        "embed_positions.weight": (66, _HIDDEN),
        "project_in.weight": (_HIDDEN, 16),
        "project_out.weight": (16, _HIDDEN),
    },
    "bloom": {
        "word_embeddings.weight": (50, _HIDDEN),
        "word_embeddings_layernorm.weight": (_HIDDEN,),
        "word_embeddings_layernorm.bias": (_HIDDEN,),
    },
}
_PLACES = {
    "gpt2": ("transformer.", "h", "ln_f"),
    "gpt_neox": ("gpt_neox.", "layers", "final_layer_norm"),
    "opt": ("model.decoder.", "layers", "final_layer_norm"),
    "bloom": ("transformer.", "h", "ln_f"),
}


def gpt_config(model_type: str, **settings: Any) -> dict[str, Any]:
    """A configuration of ``gpt_tensors``."""
    return {"model_type": model_type, **GPT_CONFIGS[model_type], **settings}


def gpt_tensors(model_type: str, seed: int = 0) -> dict[str, NDArray[Any]]:
    """All tensors of a model of ``GPT_CONFIGS``, with no output head of its own."""
    random = np.random.default_rng(seed)
    root, layer, final_norm = _PLACES[model_type]
    shapes = dict(_OUTSIDE[model_type])
    norms = [final_norm]
    for i in range(2):
        for part, shape in _LAYERS[model_type].items():
            name = f"{layer}.{i}.{part}"
            if shape:
                outputs = shape[1] if model_type == "gpt2" else shape[0]
                shapes |= {f"{name}.weight": shape, f"{name}.bias": (outputs,)}
            else:
                norms.append(name)
    for norm in norms:
        shapes |= {f"{norm}.weight": (_HIDDEN,), f"{norm}.bias": (_HIDDEN,)}
    return {root + name: random.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
