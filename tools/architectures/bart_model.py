"""BART and its kin: mBART, Marian (OPUS-MT), Pegasus, M2M100 (NLLB)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from edgelm.bundle.manifest import MAX_CONTEXT, MAX_HEAD_SIZE, MAX_HEADS, MAX_LAYERS, MAX_VOCAB
from edgelm.errors import UnsupportedModelError
from edgelm_tools.architectures.config_fields import ConfigFields
from edgelm_tools.architectures.decoder_layers import ACTIVATIONS
from edgelm_tools.architectures.seq2seq_model import Seq2SeqModel
from edgelm_tools.architectures.seq2seq_spec import (
    AttentionNames,
    FeedForwardNames,
    LayerNames,
    Positions,
    Role,
    Seq2SeqSpec,
    Stack,
    StackNames,
)
from edgelm_tools.architectures.seq2seq_tasks import refuse_other_heads, tasks_of
from edgelm_tools.checkpoint.base import Checkpoint

MAX_WIDTH = 1 << 20
# Of positions that no file need have; published models have up to 1,024.
MOST_COMPUTED = 1 << 14
_NORM_EPSILON = 1e-5
# Learned tables have two rows before position 0.
_LEARNED_OFFSET = 2

_COMMON = {
    "vocab_size": 50_265,
    "max_position_embeddings": 1024,
    "encoder_layers": 12,
    "encoder_ffn_dim": 4096,
    "encoder_attention_heads": 16,
    "decoder_layers": 12,
    "decoder_ffn_dim": 4096,
    "decoder_attention_heads": 16,
    "activation_function": "gelu",
    "d_model": 1024,
    "scale_embedding": False,
    "tie_word_embeddings": True,
}
_TOKENS = {"bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2}
_FORCED = {"forced_eos_token_id": 2}


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """A model type.

    Attributes:
        tasks: what all models of the type are for.
        positions: as in ``Positions.kind``.
        embedding_norm: whether embeddings are normed.
        logits_bias: whether logits have a bias of their own.
        defaults: of transformers' class (4.57), for fields that ``config.json`` may leave out.
    """

    residual: Literal["pre", "post"]
    positions: Literal["learned", "split", "tensor2tensor"]
    embedding_norm: bool = False
    logits_bias: bool = True
    tasks: tuple[str, ...] = ()
    defaults: Mapping[str, Any] = field(default_factory=dict)


MEMBERS: dict[str, Member] = {
    "bart": Member(
        residual="post",
        positions="learned",
        embedding_norm=True,
        defaults={**_COMMON, **_TOKENS, **_FORCED, "decoder_start_token_id": 2},
    ),
    "mbart": Member(
        residual="pre",
        positions="learned",
        embedding_norm=True,
        tasks=("translation",),
        defaults={**_COMMON, **_TOKENS, **_FORCED},
    ),
    "marian": Member(
        residual="post",
        positions="split",
        tasks=("translation",),
        defaults={
            **_COMMON,
            "vocab_size": 58_101,
            "decoder_start_token_id": 58_100,
            "pad_token_id": 58_100,
            "eos_token_id": 0,
            "forced_eos_token_id": 0,
            "share_encoder_decoder_embeddings": True,
        },
    ),
    "pegasus": Member(
        residual="pre",
        positions="split",
        tasks=("summarization",),
        defaults={
            **_COMMON,
            "decoder_start_token_id": 0,
            "pad_token_id": 0,
            "eos_token_id": 1,
            "forced_eos_token_id": 1,
        },
    ),
    "m2m_100": Member(
        residual="pre",
        positions="tensor2tensor",
        logits_bias=False,
        tasks=("translation",),
        defaults={
            **_COMMON,
            **_TOKENS,
            "vocab_size": 128_112,
            "activation_function": "relu",
            "scale_embedding": True,
            "decoder_start_token_id": 2,
        },
    ),
}


class BartModel(Seq2SeqModel):
    """Implements ``Architecture``.

    Args:
        checkpoint: whose ``model_type`` is of this family.
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        refuse_other_heads(checkpoint.config)
        super().__init__(checkpoint, bart_spec(checkpoint.config, bart_prefix(checkpoint)))


def bart_prefix(checkpoint: Checkpoint) -> str:
    """What stands before the names of tensors; a bare model, whose head is the embedding, was saved without it."""
    return "model." if any(name.startswith("model.") for name in checkpoint.names()) else ""


def bart_spec(config: Mapping[str, Any], prefix: str = "model.") -> Seq2SeqSpec:
    """The record of a checkpoint's configuration; ``prefix`` stands before the names of its tensors.

    Raises:
        UnsupportedModelError: one of its settings is not known, or missing; names it.
        ModelError: a setting is of the wrong type or out of range.
    """
    model_type = str(config["model_type"])
    member = MEMBERS[model_type]
    c = ConfigFields(config, member.defaults, what="config.json")
    if not c.flag("share_encoder_decoder_embeddings", default=True):
        raise UnsupportedModelError(f"a {model_type} with two vocabularies, one a language, is not built natively")
    hidden, positions = c.integer("d_model", least=4, most=MAX_WIDTH), _positions(c, member)
    vocab_size = c.integer("vocab_size", most=MAX_VOCAB)
    start = "decoder_start_token_id" if c.has("decoder_start_token_id") else "bos_token_id"
    return Seq2SeqSpec(
        model_type=model_type,
        tasks=tasks_of(c, *member.tasks),
        hidden_size=hidden,
        vocab_size=vocab_size,
        encoder=_stack(c, "encoder", member, prefix),
        decoder=_stack(c, "decoder", member, prefix),
        context_length=positions.count,
        source_length=positions.count,
        decoder_start_token_id=c.integer(start, least=0, most=vocab_size - 1),
        norm="layer",
        norm_epsilon=_NORM_EPSILON,
        residual=member.residual,
        biased=True,
        activation=ACTIVATIONS[c.choice("activation_function", ACTIVATIONS)],
        embedding_scale=math.sqrt(hidden) if c.flag("scale_embedding") else 1.0,
        tied=c.flag("tie_word_embeddings"),
        positions=positions,
        embeddings=tuple(f"{prefix}{part}.weight" for part in _TABLES),
        logits_bias="final_logits_bias" if member.logits_bias else None,
        class_defaults=_defaults(c, member),
        unused=tuple(f"{prefix}{name}" for name in _UNUSED),
    )


def _defaults(c: ConfigFields, member: Member) -> Mapping[str, Any]:
    # BART's first configurations say it in these words.
    if member is MEMBERS["bart"] and c.flag("force_bos_token_to_be_generated"):
        return {**member.defaults, "forced_bos_token_id": c.integer("bos_token_id", least=0)}
    return member.defaults


_TABLES = ("shared", "encoder.embed_tokens", "decoder.embed_tokens")
_UNUSED = (
    "encoder.version",
    "decoder.version",
    # M2M100's positions are computed also where a checkpoint has them.
    "encoder.embed_positions.weights",
    "decoder.embed_positions.weights",
)


def _positions(c: ConfigFields, member: Member) -> Positions:
    first = {"learned": _LEARNED_OFFSET, "split": 0}.get(member.positions, c.integer("pad_token_id", least=0) + 1)
    most = MAX_CONTEXT if member.positions == "learned" else MOST_COMPUTED
    return Positions(kind=member.positions, first=first, count=c.integer("max_position_embeddings", most=most))


def _stack(c: ConfigFields, role: Role, member: Member, prefix: str) -> Stack:
    hidden, heads = c.integer("d_model"), c.integer(f"{role}_attention_heads", most=MAX_HEADS)
    if hidden % heads or hidden // heads > MAX_HEAD_SIZE:
        raise c.fault("d_model", f"of {hidden} makes no {heads} heads of 1 to {MAX_HEAD_SIZE} values each")
    stack = f"{prefix}{role}"
    return Stack(
        layers=c.integer(f"{role}_layers", most=MAX_LAYERS),
        heads=heads,
        head_size=hidden // heads,
        intermediate_size=c.integer(f"{role}_ffn_dim", most=MAX_WIDTH),
        scale=1 / math.sqrt(hidden // heads),
        names=StackNames(
            embedding_norm=f"{stack}.layernorm_embedding" if member.embedding_norm else None,
            final_norm=f"{stack}.layer_norm" if member.residual == "pre" else None,
            positions=f"{stack}.embed_positions",
        ),
        layer=lambda i: _layer_names(f"{stack}.layers.{i}", role),
    )


def _layer_names(layer: str, role: Role) -> LayerNames:
    return LayerNames(
        _attention_names(layer, "self_attn"),
        _attention_names(layer, "encoder_attn") if role == "decoder" else None,
        FeedForwardNames((f"{layer}.fc1",), f"{layer}.fc2", f"{layer}.final_layer_norm"),
    )


def _attention_names(layer: str, kind: str) -> AttentionNames:
    query, key, value, output = (f"{layer}.{kind}.{name}_proj" for name in ("q", "k", "v", "out"))
    return AttentionNames(query, key, value, output, f"{layer}.{kind}_layer_norm")
