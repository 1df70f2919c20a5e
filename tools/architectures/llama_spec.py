"""What distinguishes the members of the LLaMA family, read from a Hugging Face configuration into one frozen record.

One table entry a model type: adding a member is adding an entry. The graph builder sees only ``DecoderSpec``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from edgelm.errors import UnsupportedModelError
from edgelm_tools.architectures.rope import Rope, make_rope

Config = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class DecoderSpec:
    """A decoder of the LLaMA family.

    Attributes:
        residual: where the norms stand: ``pre`` (before each sublayer), ``post`` (after it, inside the residual
            branch), ``sandwich`` (both), ``parallel`` (attention and MLP share one norm and are added together).
        norm_offset: added to every norm's weight (Gemma keeps weight − 1).
        qk_norm: RMS norm of queries and keys: of each head, of the whole projection, or none.
        windows: per layer the number of tokens it attends to, the token itself included; None: all.
        ropes: per layer its rotary embedding; None: no positions in that layer.
    """

    model_type: str
    hidden_size: int
    layers: int
    heads: int
    kv_heads: int
    head_size: int
    vocab_size: int
    context_length: int
    norm_epsilon: float
    activation: Literal["silu", "gelu", "gelu_tanh"]
    tied_embeddings: bool
    ropes: tuple[Rope | None, ...]
    windows: tuple[int | None, ...]
    norm: Literal["rms", "layer"] = "rms"
    norm_offset: float = 0.0
    residual: Literal["pre", "post", "sandwich", "parallel"] = "pre"
    qk_norm: Literal["head", "projection"] | None = None
    attention_scale: float
    attention_softcap: float = 0.0
    logit_softcap: float = 0.0
    embedding_scale: float = 1.0
    residual_scale: float = 1.0
    logit_scale: float = 1.0


def decoder_spec(config: Config) -> DecoderSpec:
    """The record of a checkpoint's configuration.

    Raises:
        UnsupportedModelError: the model type or one of its settings is not of this family; names it.
    """
    model_type = str(config.get("model_type"))
    if model_type not in MEMBERS:
        raise UnsupportedModelError(
            f"model type {model_type!r} is not built natively; of this family are: {', '.join(MEMBERS)}"
        )
    try:
        return DecoderSpec(**(_common(config) | MEMBERS[model_type](config)))
    except KeyError as missing:
        raise UnsupportedModelError(f"config.json lacks {missing.args[0]!r}, which a {model_type} needs") from missing


def _common(config: Config) -> dict[str, Any]:
    heads = int(config["num_attention_heads"])
    layers = int(config["num_hidden_layers"])
    head_size = int(config.get("head_dim") or config["hidden_size"] // heads)
    rope = _rope(config, head_size)
    return {
        "model_type": str(config["model_type"]),
        "hidden_size": int(config["hidden_size"]),
        "layers": layers,
        "heads": heads,
        "kv_heads": int(config.get("num_key_value_heads") or heads),
        "head_size": head_size,
        "vocab_size": int(config["vocab_size"]),
        "context_length": min(int(config["max_position_embeddings"]), rope.context_length or 1 << 62),
        "norm_epsilon": float(config.get("rms_norm_eps") or config.get("layer_norm_eps") or 1e-6),
        "activation": _activation(config),
        "tied_embeddings": bool(config.get("tie_word_embeddings", False)),
        "ropes": (rope,) * layers,
        "windows": (None,) * layers,
        "attention_scale": 1 / math.sqrt(head_size),
    }


def _activation(config: Config) -> str:
    name = config.get("hidden_activation") or config.get("hidden_act") or "silu"
    known = {"silu": "silu", "gelu": "gelu", "gelu_pytorch_tanh": "gelu_tanh", "gelu_new": "gelu_tanh"}
    if name not in known:
        raise UnsupportedModelError(f"activation {name!r} is not known; known are: {', '.join(known)}")
    return known[name]


def _rope(config: Config, head_size: int) -> Rope:
    # Newer configurations keep base and scaling together in rope_parameters.
    parameters = config.get("rope_parameters") or {}
    base = float(config.get("rope_theta") or parameters.get("rope_theta") or 10_000.0)
    scaling = config.get("rope_scaling") or parameters
    return make_rope(config, head_size=head_size, base=base, scaling=scaling)


def _windows(config: Config, sliding: Callable[[int], bool]) -> dict[str, Any]:
    window = config.get("sliding_window")
    layers = int(config["num_hidden_layers"])
    types = config.get("layer_types")
    is_sliding = [types[i] == "sliding_attention" if types else sliding(i) for i in range(layers)]
    return {"windows": tuple(int(window) if window and on else None for on in is_sliding)}


def _llama(config: Config) -> dict[str, Any]:
    return {}


def _mistral(config: Config) -> dict[str, Any]:
    window = config.get("sliding_window")
    return {"windows": (window,) * int(config["num_hidden_layers"])}


def _qwen2(config: Config) -> dict[str, Any]:
    if not config.get("use_sliding_window"):
        return {}
    return _windows(config, lambda i: i >= int(config.get("max_window_layers", 0)))


def _qwen3(config: Config) -> dict[str, Any]:
    return _qwen2(config) | {"qk_norm": "head"}


def _gemma(config: Config) -> dict[str, Any]:
    return {
        "norm_offset": 1.0,
        "embedding_scale": math.sqrt(config["hidden_size"]),
        "activation": "gelu_tanh",
        "tied_embeddings": config.get("tie_word_embeddings", True),
    }


def _gemma2(config: Config) -> dict[str, Any]:
    return {
        **_gemma(config),
        **_windows(config, lambda i: i % 2 == 0),
        "residual": "sandwich",
        "attention_scale": float(config["query_pre_attn_scalar"]) ** -0.5,
        "attention_softcap": float(config.get("attn_logit_softcapping") or 0),
        "logit_softcap": float(config.get("final_logit_softcapping") or 0),
    }


def _gemma3(config: Config) -> dict[str, Any]:
    pattern = int(config.get("sliding_window_pattern") or 6)
    settings = _gemma2(config) | _windows(config, lambda i: (i + 1) % pattern != 0)
    head_size = int(config["head_dim"])
    by_type = config.get("rope_parameters") or {}
    base = config.get("rope_local_base_freq") or by_type.get("sliding_attention", {}).get("rope_theta") or 10_000.0
    local = make_rope(config, head_size=head_size, base=float(base), scaling=None)
    full = by_type.get("full_attention", {})
    scaling = config.get("rope_scaling") or full
    base = config.get("rope_theta") or full.get("rope_theta") or 1_000_000.0
    everywhere = make_rope(config, head_size=head_size, base=float(base), scaling=scaling)
    types = config.get("layer_types") or [
        "sliding_attention" if (i + 1) % pattern else "full_attention" for i in range(config["num_hidden_layers"])
    ]
    ropes = tuple(local if kind == "sliding_attention" else everywhere for kind in types)
    return settings | {"qk_norm": "head", "ropes": ropes}


def _granite(config: Config) -> dict[str, Any]:
    return {
        "embedding_scale": float(config["embedding_multiplier"]),
        "attention_scale": float(config["attention_multiplier"]),
        "residual_scale": float(config["residual_multiplier"]),
        "logit_scale": 1 / float(config["logits_scaling"]),
    }


def _olmo2(config: Config) -> dict[str, Any]:
    return {"residual": "post", "qk_norm": "projection"}


def _smollm3(config: Config) -> dict[str, Any]:
    layers = int(config["num_hidden_layers"])
    interval = int(config.get("no_rope_layer_interval", 4))
    with_rope = config.get("no_rope_layers") or [(i + 1) % interval != 0 for i in range(layers)]
    rope = _rope(config, int(config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]))
    settings: dict[str, Any] = {"ropes": tuple(rope if on else None for on in with_rope)}
    if config.get("use_sliding_window"):
        settings |= _windows(config, lambda i: not with_rope[i])
    return settings


def _stablelm(config: Config) -> dict[str, Any]:
    if config.get("qk_layernorm"):
        raise UnsupportedModelError("a stablelm with qk_layernorm is not built natively")
    return {
        "norm": "layer",
        "norm_epsilon": float(config.get("layer_norm_eps", 1e-5)),
        "residual": "parallel" if config.get("use_parallel_residual") else "pre",
    }


MEMBERS: dict[str, Callable[[Config], dict[str, Any]]] = {
    "llama": _llama,
    "mistral": _mistral,
    "qwen2": _qwen2,
    "qwen3": _qwen3,
    "phi3": _mistral,
    "gemma": _gemma,
    "gemma2": _gemma2,
    "gemma3_text": _gemma3,
    "granite": _granite,
    "olmo2": _olmo2,
    "smollm3": _smollm3,
    "stablelm": _stablelm,
}
