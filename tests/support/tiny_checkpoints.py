"""Tiny LLaMA-family checkpoints with random weights, made by transformers: odd sizes, so that mistakes show.

The variants are plain data; torch and transformers are imported only where a checkpoint is built.
"""

from __future__ import annotations

import json
import logging
import warnings
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from support.tokenizers import byte_level

CONTEXT = 96
# Not a multiple of 32, and more than the tokenizer has.
VOCABULARY = 421
# Larger than transformers' 0.02: with that, logits are nearly flat and hide errors.
WEIGHT_SPREAD = 0.2
NORM_SPREAD = 0.3
BIAS_SPREAD = 0.3


@dataclass(frozen=True)
class Variant:
    """A configuration: ``settings`` are those of transformers' ``model_type``, on top of the common ones."""

    name: str
    model_type: str
    settings: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return self.name


_COMMON: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 72,
    "intermediate_size": 100,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "max_position_embeddings": CONTEXT,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
    "initializer_range": WEIGHT_SPREAD,
    "tie_word_embeddings": False,
    # Larger than usual, so that a wrong one shows.
    "rms_norm_eps": 3e-3,
    "layer_norm_eps": 3e-3,
}
_LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 24,
}
_YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 24}
# Factors of the rotary embedding of heads of 12.
_SHORT, _LONG = [1.0, 1.1, 1.2, 1.4, 1.7, 2.0], [1.0, 1.5, 2.0, 3.0, 4.0, 6.0]
_LONGROPE = {"type": "longrope", "short_factor": _SHORT, "long_factor": _LONG}
_WINDOWED = {"use_sliding_window": True, "sliding_window": 7}
_TYPES = ["sliding_attention", "full_attention", "sliding_attention"]
_GEMMA = {"head_dim": 20, "tie_word_embeddings": True}
_GEMMA2 = {**_GEMMA, "sliding_window": 9, "query_pre_attn_scalar": 12, "attn_logit_softcapping": 4.0}


def _variant(name: str, **settings: Any) -> Variant:
    return Variant(name, name.split(".")[0], settings)


VARIANTS = (
    _variant("llama"),
    _variant("llama.tied", tie_word_embeddings=True, hidden_size=80, num_attention_heads=4, eos_token_id=[2, 5]),
    _variant("llama.no_groups", num_key_value_heads=6, rope_theta=1234.5),
    _variant("llama.one_kv_head", num_key_value_heads=1, hidden_size=66, head_dim=24),
    _variant("llama.wide_heads", head_dim=40, num_attention_heads=3, num_key_value_heads=3),
    _variant("llama.biases", attention_bias=True, mlp_bias=True),
    _variant("llama.gelu", hidden_act="gelu"),
    _variant("llama.gelu_tanh", hidden_act="gelu_pytorch_tanh"),
    _variant("llama.one_layer", num_hidden_layers=1),
    _variant("llama.linear", rope_scaling={"rope_type": "linear", "factor": 3.0}),
    _variant("llama.dynamic", rope_scaling={"rope_type": "dynamic", "factor": 2.0}),
    _variant("llama.llama3", rope_scaling=_LLAMA3),
    _variant("llama.yarn", rope_scaling=_YARN),
    _variant("llama.yarn_mscale", rope_scaling={**_YARN, "mscale": 0.7, "mscale_all_dim": 1.3, "truncate": False}),
    _variant("llama.yarn_betas", rope_scaling={**_YARN, "beta_fast": 8.0, "beta_slow": 2.0, "attention_factor": 1.2}),
    _variant(
        "llama.longrope",
        rope_scaling={"rope_type": "longrope", "factor": 4.0, "short_factor": _SHORT, "long_factor": _LONG},
    ),
    _variant("mistral", head_dim=16, sliding_window=None),
    _variant("mistral.window", sliding_window=5, head_dim=12),
    _variant("qwen2", rope_theta=1e6),
    _variant("qwen2.tied_window", **_WINDOWED, max_window_layers=1, tie_word_embeddings=True),
    _variant("qwen2.layer_types", **_WINDOWED, layer_types=_TYPES),
    _variant("qwen2.yarn", rope_scaling=_YARN),
    _variant("qwen3", head_dim=20),
    _variant("qwen3.window_bias", head_dim=32, attention_bias=True, **_WINDOWED, max_window_layers=2),
    _variant("phi3"),
    _variant("phi3.window", sliding_window=6, num_key_value_heads=6),
    _variant("phi3.longrope", rope_scaling=_LONGROPE, original_max_position_embeddings=64),
    _variant("phi3.partial", partial_rotary_factor=0.5, num_attention_heads=3, num_key_value_heads=3),
    _variant("gemma", **_GEMMA),
    _variant("gemma.gelu", **_GEMMA, hidden_act="gelu", hidden_activation="gelu_pytorch_tanh"),
    _variant("gemma.untied_bias", head_dim=16, attention_bias=True, num_key_value_heads=1),
    _variant("gemma2", **_GEMMA2, final_logit_softcapping=3.0),
    _variant("gemma2.no_caps", **_GEMMA2 | {"attn_logit_softcapping": None}, final_logit_softcapping=None),
    _variant(
        "gemma3_text",
        **_GEMMA2 | {"attn_logit_softcapping": None},
        rope_local_base_freq=100.0,
        rope_theta=50_000.0,
        sliding_window_pattern=3,
        rope_scaling={"rope_type": "linear", "factor": 8.0},
    ),
    _variant(
        "gemma3_text.types",
        **_GEMMA2 | {"attn_logit_softcapping": None, "tie_word_embeddings": False},
        final_logit_softcapping=5.0,
        layer_types=_TYPES,
        attention_bias=True,
    ),
    _variant(
        "granite",
        embedding_multiplier=3.0,
        attention_multiplier=0.2,
        residual_multiplier=0.4,
        logits_scaling=0.5,
        tie_word_embeddings=True,
    ),
    _variant("granite.biases", attention_bias=True, mlp_bias=True, attention_multiplier=0.3, rope_scaling=_YARN),
    _variant("olmo2"),
    _variant("olmo2.biases", attention_bias=True, num_key_value_heads=3),
    _variant("smollm3", num_hidden_layers=5, no_rope_layer_interval=2, tie_word_embeddings=True),
    _variant("smollm3.window", no_rope_layers=[0, 1, 0], **_WINDOWED, attention_bias=True, mlp_bias=True),
    _variant("smollm3.no_rope", no_rope_layers=[0, 0, 0]),
    _variant("stablelm", partial_rotary_factor=0.5, use_qkv_bias=True),
    _variant("stablelm.parallel", partial_rotary_factor=0.5, use_parallel_residual=True),
    _variant("stablelm.yarn", partial_rotary_factor=1.0, rope_scaling=_YARN, tie_word_embeddings=True),
)


def variant(name: str) -> Variant:
    """The variant of that name."""
    return next(v for v in VARIANTS if v.name == name)


def reference_model(variant: Variant, seed: int = 0) -> Any:
    """transformers' model of the variant, float32 with eager attention; all of its weights are random."""
    import torch

    torch.set_num_threads(1)
    config = _configuration(variant)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from transformers import AutoModelForCausalLM

        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").to(torch.float32).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            # Left at 0 or 1, norm weights and biases would say nothing of whether they are used.
            if parameter.dim() == 1:
                spread = BIAS_SPREAD if name.endswith("bias") else NORM_SPREAD
                parameter.add_(torch.randn(parameter.shape) * spread)
    return model


def _configuration(variant: Variant) -> Any:
    logging.getLogger("transformers").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from transformers import AutoConfig

        return AutoConfig.for_model(variant.model_type, **json.loads(json.dumps(_COMMON | variant.settings)))


def write_checkpoint(folder: Path, model: Any) -> Path:
    """The model as its authors would publish it: ``config.json``, safetensors, ``tokenizer.json``."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.save_pretrained(folder, safe_serialization=True)
    write_text_assets(folder)
    return folder


def write_text_assets(folder: Path) -> None:
    """Adds ``tokenizer.json`` to a folder that transformers has written."""
    (folder / "tokenizer.json").write_bytes(_tokenizer())


@cache
def _tokenizer() -> bytes:
    return byte_level().to_str().encode()


def reference_logits(model: Any, ids: NDArray[np.int64]) -> NDArray[np.float32]:
    """The model's logits after each of the tokens, without a cache: (T, V)."""
    import torch

    with torch.no_grad():
        logits: NDArray[np.float32] = model(torch.from_numpy(ids)[None], use_cache=False).logits[0].numpy()
    return logits
