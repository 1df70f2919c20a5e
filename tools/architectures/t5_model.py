"""T5 and its kin: T5 v1.0 and v1.1 (FLAN), mT5, umT5."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from edgelm.bundle.manifest import MAX_HEAD_SIZE, MAX_HEADS, MAX_LAYERS, MAX_VOCAB
from edgelm_tools.architectures.config_fields import ConfigFields
from edgelm_tools.architectures.decoder_layers import ACTIVATIONS
from edgelm_tools.architectures.seq2seq_model import Seq2SeqModel
from edgelm_tools.architectures.seq2seq_spec import (
    AttentionNames,
    FeedForwardNames,
    LayerNames,
    RelativeBias,
    Role,
    Seq2SeqSpec,
    Stack,
    StackNames,
)
from edgelm_tools.architectures.seq2seq_tasks import refuse_other_heads, tasks_of
from edgelm_tools.checkpoint.base import Checkpoint

MAX_WIDTH = 1 << 20
# Tables of the bias have an entry for each distance; published models tell apart 128.
MAX_DISTANCE = 1 << 14
# Nothing in the model limits the answer; this bounds what a request may ask for. Models of this kind were trained on
# texts of 512 tokens.
CONTEXT_LENGTH = 2048

_COMMON = {
    "vocab_size": 250_112,
    "d_model": 512,
    "d_kv": 64,
    "d_ff": 1024,
    "num_layers": 8,
    "num_heads": 6,
    "relative_attention_num_buckets": 32,
    "relative_attention_max_distance": 128,
    "layer_norm_epsilon": 1e-6,
    "feed_forward_proj": "gated-gelu",
    "pad_token_id": 0,
    "eos_token_id": 1,
}
# Model type → defaults of transformers' class (4.57), for fields that config.json may leave out.
DEFAULTS: dict[str, Mapping[str, Any]] = {
    "t5": {
        **_COMMON,
        "vocab_size": 32_128,
        "d_ff": 2048,
        "num_layers": 6,
        "num_heads": 8,
        "feed_forward_proj": "relu",
        "tie_word_embeddings": True,
    },
    "mt5": {**_COMMON, "tie_word_embeddings": False, "decoder_start_token_id": 0},
    "umt5": {**_COMMON, "tie_word_embeddings": True, "decoder_start_token_id": 0},
}


class T5Model(Seq2SeqModel):
    """Implements ``Architecture``.

    Args:
        checkpoint: whose ``model_type`` is of this family.
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        refuse_other_heads(checkpoint.config)
        super().__init__(checkpoint, t5_spec(checkpoint.config))


def t5_spec(config: Mapping[str, Any], prefix: str = "") -> Seq2SeqSpec:
    """The record of a checkpoint's configuration; ``prefix`` stands before the names of its tensors.

    Raises:
        UnsupportedModelError: one of its settings is not known, or missing; names it.
        ModelError: a setting is of the wrong type or out of range.
    """
    model_type = str(config["model_type"])
    c = ConfigFields(config, DEFAULTS[model_type], what="config.json")
    hidden, tied = c.integer("d_model", most=MAX_WIDTH), c.flag("tie_word_embeddings")
    gated, activation = _feed_forward(c)
    layers = c.integer("num_layers", most=MAX_LAYERS)
    decoder_layers = c.integer("num_decoder_layers", most=MAX_LAYERS) if c.has("num_decoder_layers") else layers
    starts = "decoder_start_token_id" if c.has("decoder_start_token_id") else "pad_token_id"
    vocab_size = c.integer("vocab_size", most=MAX_VOCAB)
    return Seq2SeqSpec(
        model_type=model_type,
        tasks=tasks_of(c),
        hidden_size=hidden,
        vocab_size=vocab_size,
        encoder=_stack(c, "encoder", layers, prefix, gated=gated),
        decoder=_stack(c, "decoder", decoder_layers, prefix, gated=gated),
        context_length=CONTEXT_LENGTH,
        source_length=None,
        decoder_start_token_id=c.integer(starts, least=0, most=vocab_size - 1),
        norm="rms",
        norm_epsilon=c.real("layer_norm_epsilon"),
        residual="pre",
        biased=False,
        activation=ACTIVATIONS[activation],
        gated=gated,
        head_scale=1 / math.sqrt(hidden) if tied else 1.0,
        tied=tied,
        relative_bias=_relative_bias(c, prefix, every_layer=model_type == "umt5"),
        embeddings=tuple(f"{prefix}{part}.weight" for part in _TABLES),
        class_defaults=DEFAULTS[model_type],
        unused=(f"{prefix}decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight",),
    )


_TABLES = ("shared", "encoder.embed_tokens", "decoder.embed_tokens")
_FEED_FORWARDS = [*ACTIVATIONS, *(f"gated-{name}" for name in ACTIVATIONS)]


def _feed_forward(c: ConfigFields) -> tuple[bool, str]:
    """(Whether two projections are multiplied, transformers' name of the activation).

    Newer configurations also say each in a field of its own, which then holds.
    """
    gate, _, activation = c.choice("feed_forward_proj", _FEED_FORWARDS).rpartition("-")
    # The gated GELU of these models is the one with tanh.
    activation = "gelu_new" if gate and activation == "gelu" else activation
    gated = c.flag("is_gated_act", default=bool(gate))
    return gated, c.choice("dense_act_fn", ACTIVATIONS) if c.has("dense_act_fn") else activation


def _relative_bias(c: ConfigFields, prefix: str, *, every_layer: bool) -> RelativeBias:
    buckets = c.integer("relative_attention_num_buckets", least=4, most=MAX_DISTANCE)
    return RelativeBias(
        buckets=buckets,
        max_distance=c.integer("relative_attention_max_distance", least=buckets // 2 + 1, most=MAX_DISTANCE),
        every_layer=every_layer,
        tensor=lambda role, i: f"{prefix}{role}.block.{i}.layer.0.SelfAttention.relative_attention_bias.weight",
    )


def _stack(c: ConfigFields, role: Role, layers: int, prefix: str, *, gated: bool) -> Stack:
    return Stack(
        layers=layers,
        heads=c.integer("num_heads", most=MAX_HEADS),
        head_size=c.integer("d_kv", most=MAX_HEAD_SIZE),
        intermediate_size=c.integer("d_ff", most=MAX_WIDTH),
        scale=1.0,
        names=StackNames(final_norm=f"{prefix}{role}.final_layer_norm"),
        layer=lambda i: _layer_names(f"{prefix}{role}.block.{i}.layer", role, gated),
    )


def _layer_names(layer: str, role: Role, gated: bool) -> LayerNames:
    last = f"{layer}.{2 if role == 'decoder' else 1}"
    inner = ("wi_0", "wi_1") if gated else ("wi",)
    return LayerNames(
        _attention_names(f"{layer}.0", "SelfAttention"),
        _attention_names(f"{layer}.1", "EncDecAttention") if role == "decoder" else None,
        FeedForwardNames(
            tuple(f"{last}.DenseReluDense.{name}" for name in inner),
            f"{last}.DenseReluDense.wo",
            f"{last}.layer_norm",
        ),
    )


def _attention_names(layer: str, kind: str) -> AttentionNames:
    query, key, value, output = (f"{layer}.{kind}.{name}" for name in "qkvo")
    return AttentionNames(query, key, value, output, f"{layer}.layer_norm")
