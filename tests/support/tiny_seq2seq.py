"""Tiny encoder-decoder checkpoints with random weights, made by transformers: odd sizes, so that mistakes show."""

from __future__ import annotations

import logging
import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray
from support.tiny_checkpoints import BIAS_SPREAD, NORM_SPREAD, VOCABULARY, Variant

PAD, EOS, START = 1, 2, 3
CONTEXT = 80

_TOKENS: dict[str, Any] = {"pad_token_id": PAD, "eos_token_id": EOS, "decoder_start_token_id": START}
# Heads of 12 in the model's width of 44: no head is a multiple of 8, and no width one of the heads.
_T5: dict[str, Any] = {
    **_TOKENS,
    "vocab_size": VOCABULARY,
    "d_model": 44,
    "d_kv": 12,
    "d_ff": 70,
    # Not more in the decoder: transformers' generate has room for as many as the encoder has.
    "num_layers": 3,
    "num_decoder_layers": 2,
    "num_heads": 3,
    "relative_attention_num_buckets": 12,
    "relative_attention_max_distance": 20,
    "layer_norm_epsilon": 3e-3,
    "initializer_factor": 1.3,
}
_BART: dict[str, Any] = {
    **_TOKENS,
    "vocab_size": VOCABULARY,
    "bos_token_id": 0,
    "d_model": 60,
    "encoder_layers": 2,
    "decoder_layers": 3,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 5,
    "encoder_ffn_dim": 70,
    "decoder_ffn_dim": 90,
    "max_position_embeddings": CONTEXT,
    "init_std": 0.15,
    "forced_eos_token_id": None,
}


def _t5(name: str, **settings: Any) -> Variant:
    return Variant(name, name.split(".")[0], _T5 | settings)


def _bart(name: str, **settings: Any) -> Variant:
    return Variant(name, name.split(".")[0], _BART | settings)


SEQ2SEQ_VARIANTS = (
    _t5("t5"),
    _t5("t5.gated_untied", feed_forward_proj="gated-gelu", tie_word_embeddings=False, d_kv=16, num_heads=2),
    _t5("t5.silu", feed_forward_proj="gated-silu", d_kv=9, num_heads=5),
    # In the words of newer configurations, which come before the older ones.
    _t5("t5.own_words", feed_forward_proj="gated-gelu", dense_act_fn="silu", is_gated_act=False, num_heads=2),
    _t5("t5.standard_buckets", relative_attention_num_buckets=32, relative_attention_max_distance=128, num_heads=1),
    _t5("mt5", num_heads=4),
    _t5("umt5", num_heads=2, relative_attention_num_buckets=7),
    _bart("bart"),
    _bart("bart.scaled_untied", scale_embedding=True, tie_word_embeddings=False, activation_function="relu"),
    _bart("bart.padded_heads", decoder_attention_heads=3, d_model=48, encoder_attention_heads=2),
    _bart("mbart", scale_embedding=True),
    _bart("marian", scale_embedding=True, activation_function="swish"),
    _bart("marian.odd", d_model=45, encoder_attention_heads=3, decoder_attention_heads=5),
    _bart("pegasus", activation_function="relu", scale_embedding=True),
    _bart("m2m_100", scale_embedding=True),
    _bart("m2m_100.odd", d_model=45, encoder_attention_heads=3, decoder_attention_heads=5, pad_token_id=4),
)


def seq2seq_variant(name: str) -> Variant:
    """The variant of that name."""
    return next(v for v in SEQ2SEQ_VARIANTS if v.name == name)


def seq2seq_model(variant: Variant, seed: int = 0) -> Any:
    """transformers' model of the variant, float32 with eager attention; all of its weights are random."""
    import torch

    torch.set_num_threads(1)
    logging.getLogger("transformers").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from transformers import AutoConfig, AutoModelForSeq2SeqLM

        config = AutoConfig.for_model(variant.model_type, **variant.settings)
        torch.manual_seed(seed)
        model = AutoModelForSeq2SeqLM.from_config(config, attn_implementation="eager").to(torch.float32).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 1:
                spread = BIAS_SPREAD if name.endswith("bias") else NORM_SPREAD
                parameter.add_(torch.randn(parameter.shape) * spread)
            # T5's own head is drawn so wide that a single token has all the probability.
            if name == "lm_head.weight" and "t5" in variant.model_type:
                parameter.mul_(0.2)
        for name, buffer in model.named_buffers():
            # Published checkpoints other than Marian's have zeros there, which would say nothing.
            if name == "final_logits_bias":
                buffer.add_(torch.randn(buffer.shape))
    return model


def seq2seq_logits(model: Any, source: NDArray[np.int64], target: NDArray[np.int64]) -> NDArray[np.float32]:
    """The model's logits after each token of one target, without a cache: (T, V)."""
    import torch

    with torch.no_grad():
        output = model(
            input_ids=torch.from_numpy(source)[None], decoder_input_ids=torch.from_numpy(target)[None], use_cache=False
        )
    logits: NDArray[np.float32] = output.logits[0].numpy()
    return logits
