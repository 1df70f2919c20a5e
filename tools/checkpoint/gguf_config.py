"""GGUF metadata as the ``config.json`` that Hugging Face's model of the same architecture would have."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from edgelm.errors import ModelError, UnsupportedModelError
from edgelm_tools.checkpoint.gguf_file import StoredTensor
from edgelm_tools.checkpoint.gguf_metadata import Metadata
from edgelm_tools.checkpoint.gguf_names import ARCHITECTURES

# architecture → (model_type, class) of transformers
_HUGGING_FACE = {
    "llama": ("llama", "LlamaForCausalLM"),
    "qwen2": ("qwen2", "Qwen2ForCausalLM"),
    "qwen3": ("qwen3", "Qwen3ForCausalLM"),
    "gemma": ("gemma", "GemmaForCausalLM"),
    "gemma2": ("gemma2", "Gemma2ForCausalLM"),
    "gemma3": ("gemma3_text", "Gemma3ForCausalLM"),
    "phi3": ("phi3", "Phi3ForCausalLM"),
    "granite": ("granite", "GraniteForCausalLM"),
    "olmo2": ("olmo2", "Olmo2ForCausalLM"),
    "smollm3": ("smollm3", "SmolLM3ForCausalLM"),
    "stablelm": ("stablelm", "StableLmForCausalLM"),
}
TOKEN_ROLES = {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"}

# Settings that change the computation; refused wherever the architecture's own part below does not read them.
_SPECIAL_SETTINGS = (
    "attention.scale",
    "attention.clamp_kqv",
    "attention.temperature_scale",
    "attn_logit_softcapping",
    "final_logit_softcapping",
    "embedding_scale",
    "residual_scale",
    "logit_scale",
)


class _Reader:
    """Reads one architecture's keys and remembers which of the special ones were taken."""

    def __init__(self, metadata: Metadata, tensors: Mapping[str, StoredTensor], architecture: str) -> None:
        self.metadata = metadata
        self.tensors = tensors
        self.architecture = architecture
        self.taken: set[str] = set()

    def has(self, key: str) -> bool:
        return f"{self.architecture}.{key}" in self.metadata

    def integer(self, key: str, default: int | None = None, *, least: int = 1) -> int:
        return self.metadata.integer(f"{self.architecture}.{key}", default, least=least)

    def real(self, key: str, default: float | None = None) -> float:
        self.taken.add(key)
        return self.metadata.real(f"{self.architecture}.{key}", default)

    def unsupported(self, what: str) -> UnsupportedModelError:
        return UnsupportedModelError(f"{self.metadata.source}: {self.architecture} with {what} cannot be converted")


def build_config(
    metadata: Metadata, tensors: Mapping[str, StoredTensor], rope_tensors: Mapping[str, list[float]]
) -> dict[str, Any]:
    """The configuration, with the field names of Hugging Face's ``config.json``.

    Llama 3's rotary scaling lies in the file as one ready divisor for each frequency (``rope_freqs.weight``), not as
    the parameters it was computed from. It becomes a ``longrope`` scaling with that list as both the short and the
    long factors and an ``attention_factor`` of 1, which is the same computation exactly.

    Args:
        metadata: of the file.
        tensors: of the file, by stored name.
        rope_tensors: the values of those in ``ROPE_TENSORS`` that the file has.

    Raises:
        ModelError: a key is missing, has the wrong type, or contradicts the tensors.
        UnsupportedModelError: the architecture, or a setting of it, is not one of those known; names it.
    """
    architecture = metadata.text("general.architecture")
    if architecture not in ARCHITECTURES:
        raise UnsupportedModelError(
            f"{metadata.source}: architecture {architecture!r:.60}; converted from GGUF are {', '.join(ARCHITECTURES)}"
        )
    reader = _Reader(metadata, tensors, architecture)
    config = _common(reader)
    config |= _rope(reader, config, rope_tensors)
    if architecture in _PARTICULARS:
        config |= _PARTICULARS[architecture](reader, config)
    for key in _SPECIAL_SETTINGS:
        if reader.has(key) and key not in reader.taken:
            raise reader.unsupported(f"{key} set")
    for role, stored in TOKEN_ROLES.items():
        if (key := f"tokenizer.ggml.{stored}_token_id") in metadata:
            config[f"{role}_token_id"] = metadata.integer(key)
    return config


def _common(reader: _Reader) -> dict[str, Any]:
    if reader.integer("expert_count", 0, least=0):
        raise reader.unsupported("experts")
    model_type, class_name = _HUGGING_FACE[reader.architecture]
    vocab_size, hidden_size = _embedding_shape(reader)
    heads = reader.integer("attention.head_count")
    kv_heads = reader.integer("attention.head_count_kv", heads)
    head_dim = reader.integer("attention.key_length", max(hidden_size // heads, 1))
    if reader.integer("attention.value_length", head_dim) != head_dim:
        raise reader.unsupported("values of another width than keys")
    if heads % kv_heads or head_dim % 2:
        raise ModelError(f"{reader.metadata.source}: {heads} heads of {head_dim} do not go with {kv_heads} for keys")
    layers = reader.integer("block_count")
    if layers > len(reader.tensors):
        raise ModelError(f"{reader.metadata.source}: {layers} layers, but {len(reader.tensors)} tensors")
    config: dict[str, Any] = {
        "architectures": [class_name],
        "model_type": model_type,
        "vocab_size": vocab_size,
        "hidden_size": hidden_size,
        "intermediate_size": reader.integer("feed_forward_length"),
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": head_dim,
        "max_position_embeddings": reader.integer("context_length"),
        "hidden_act": "silu",
        "attention_bias": "blk.0.attn_q.bias" in reader.tensors,
        "mlp_bias": "blk.0.ffn_down.bias" in reader.tensors,
        "tie_word_embeddings": "output.weight" not in reader.tensors,
    }
    if reader.architecture != "stablelm":
        config["rms_norm_eps"] = reader.real("attention.layer_norm_rms_epsilon")
    window = reader.integer("attention.sliding_window", 0, least=0)
    if reader.architecture in ("gemma2", "gemma3", "phi3"):
        config["sliding_window"] = window or None
    elif 0 < window < config["max_position_embeddings"]:
        raise reader.unsupported("a sliding window")
    return config


def _embedding_shape(reader: _Reader) -> tuple[int, int]:
    embedding = reader.tensors.get("token_embd.weight")
    if embedding is None or len(embedding.shape) != 2:
        raise ModelError(f"{reader.metadata.source}: no matrix token_embd.weight")
    hidden_size = reader.integer("embedding_length")
    if embedding.shape[1] != hidden_size:
        raise ModelError(
            f"{reader.metadata.source}: embedding_length is {hidden_size}, token_embd.weight has {embedding.shape[1]}"
        )
    return embedding.shape


def _rope(reader: _Reader, config: dict[str, Any], rope_tensors: Mapping[str, list[float]]) -> dict[str, Any]:
    fields: dict[str, Any] = {"rope_theta": reader.real("rope.freq_base", 10000.0)}
    rotated = reader.integer("rope.dimension_count", config["head_dim"])
    if reader.architecture in ("phi3", "stablelm"):
        fields["partial_rotary_factor"] = rotated / config["head_dim"]
    elif rotated != config["head_dim"]:
        raise reader.unsupported(f"{rotated} of {config['head_dim']} dimensions rotated")
    for name, factors in rope_tensors.items():
        if len(factors) != rotated // 2:
            raise ModelError(f"{reader.metadata.source}: {name} has {len(factors)} factors, not {rotated // 2}")
    scaling = _rope_scaling(reader, rope_tensors)
    if "rope_freqs.weight" in rope_tensors:
        if scaling:
            raise reader.unsupported("rope_freqs.weight and another rope scaling")
        divisors = rope_tensors["rope_freqs.weight"]
        scaling = {
            "rope_type": "longrope",
            "short_factor": divisors,
            "long_factor": divisors,
            "attention_factor": 1.0,
            "original_max_position_embeddings": config["max_position_embeddings"],
        }
    return fields | ({"rope_scaling": scaling} if scaling else {})


def _rope_scaling(reader: _Reader, rope_tensors: Mapping[str, list[float]]) -> dict[str, Any]:
    kind = reader.metadata.text(f"{reader.architecture}.rope.scaling.type", "none")
    long_short = [rope_tensors.get(f"rope_factors_{which}.weight") for which in ("long", "short")]
    if any(long_short):
        if reader.architecture != "phi3" or not all(long_short):
            raise reader.unsupported("long or short rope factors alone")
        return {"type": "longrope", "long_factor": long_short[0], "short_factor": long_short[1]}
    if kind == "none":
        return {}
    if kind == "linear":
        return {"rope_type": "linear", "factor": reader.real("rope.scaling.factor")}
    if kind == "yarn" and not reader.has("rope.scaling.yarn_log_multiplier"):
        scaling: dict[str, Any] = {
            "rope_type": "yarn",
            "factor": reader.real("rope.scaling.factor"),
            "original_max_position_embeddings": reader.integer("rope.scaling.original_context_length"),
        }
        for name, key in (("attention_factor", "attn_factor"), ("beta_fast", "beta_fast"), ("beta_slow", "beta_slow")):
            if reader.has(f"rope.scaling.yarn_{key}"):
                scaling[name] = reader.real(f"rope.scaling.yarn_{key}")
        return scaling
    raise reader.unsupported(f"rope scaling {kind!r:.40}")


def _gemma(_reader: _Reader, _config: dict[str, Any]) -> dict[str, Any]:
    return {"hidden_act": "gelu_pytorch_tanh", "hidden_activation": "gelu_pytorch_tanh"}


def _gemma2(reader: _Reader, config: dict[str, Any]) -> dict[str, Any]:
    return _gemma(reader, config) | {
        "attn_logit_softcapping": reader.real("attn_logit_softcapping"),
        "final_logit_softcapping": reader.real("final_logit_softcapping"),
        "query_pre_attn_scalar": _gemma_query_scalar(config, layers_of_largest=46),
        "layer_types": _layer_types(config, every=2),
    }


def _gemma3(reader: _Reader, config: dict[str, Any]) -> dict[str, Any]:
    pattern = f"{reader.architecture}.attention.sliding_window_pattern"
    fields = _gemma(reader, config) | {
        "query_pre_attn_scalar": _gemma_query_scalar(config, layers_of_largest=62),
        "rope_local_base_freq": reader.real("rope.freq_base_swa", 10000.0),
        "layer_types": _layer_types(config, every=reader.metadata.integer(pattern, 6, least=1)),
    }
    if reader.has("final_logit_softcapping"):
        fields["final_logit_softcapping"] = reader.real("final_logit_softcapping")
    return fields


def _gemma_query_scalar(config: dict[str, Any], *, layers_of_largest: int) -> int:
    """GGUF does not carry it: the 27B models use hidden_size / heads, all others head_dim (as llama.cpp knows)."""
    if config["num_hidden_layers"] == layers_of_largest:
        return int(config["hidden_size"] // config["num_attention_heads"])
    return int(config["head_dim"])


def _layer_types(config: dict[str, Any], *, every: int) -> list[str]:
    """Attention sees everything in each ``every``-th layer, a sliding window in the others."""
    windowed = config["sliding_window"] is not None
    return [
        "sliding_attention" if windowed and (layer + 1) % every else "full_attention"
        for layer in range(config["num_hidden_layers"])
    ]


def _phi3(reader: _Reader, config: dict[str, Any]) -> dict[str, Any]:
    original = reader.integer("rope.scaling.original_context_length", config["max_position_embeddings"])
    return {"original_max_position_embeddings": original}


def _granite(reader: _Reader, _config: dict[str, Any]) -> dict[str, Any]:
    return {
        "attention_multiplier": reader.real("attention.scale"),
        "embedding_multiplier": reader.real("embedding_scale", 1.0),
        "residual_multiplier": reader.real("residual_scale", 1.0),
        "logits_scaling": reader.real("logit_scale", 1.0),
    }


def _smollm3(_reader: _Reader, config: dict[str, Any]) -> dict[str, Any]:
    """GGUF does not carry it either: every fourth layer goes without rotary embedding (1: with, 0: without)."""
    with_rope = [int((layer + 1) % 4 != 0) for layer in range(config["num_hidden_layers"])]
    return {"no_rope_layer_interval": 4, "no_rope_layers": with_rope}


def _stablelm(reader: _Reader, config: dict[str, Any]) -> dict[str, Any]:
    if "blk.0.attn_q_norm.weight" in reader.tensors:
        raise reader.unsupported("norms for each head")
    return {
        "layer_norm_eps": reader.real("attention.layer_norm_epsilon"),
        "use_qkv_bias": config["attention_bias"],
        "use_parallel_residual": reader.metadata.flag("stablelm.use_parallel_residual", True),
        "qk_layernorm": False,
    }


_PARTICULARS: dict[str, Callable[[_Reader, dict[str, Any]], dict[str, Any]]] = {
    "gemma": _gemma,
    "gemma2": _gemma2,
    "gemma3": _gemma3,
    "phi3": _phi3,
    "granite": _granite,
    "smollm3": _smollm3,
    "stablelm": _stablelm,
}
