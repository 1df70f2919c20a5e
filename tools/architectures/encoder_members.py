"""The members of the BERT family as data: how each calls its settings and its tensors."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from edgelm_tools.architectures.decoder_layers import Activation


@dataclass(frozen=True, slots=True)
class LayerNames:
    """Tensors of a layer, without ``.weight`` and ``.bias``; ``path`` has a place for each number that it takes.

    ``position_key`` and ``position_query`` are what disentangled attention looks at relative positions with.
    """

    path: str
    query: str
    key: str
    value: str
    output: str
    attention_norm: str
    up: str
    down: str
    norm: str
    position_key: str = ""
    position_query: str = ""


@dataclass(frozen=True, slots=True)
class SequenceHead:
    """The head over a text's first token: classifier(activation(dense(x)))."""

    dense: str
    activation: Activation
    classifier: str


@dataclass(frozen=True, slots=True)
class MaskedHead:
    """The head that predicts tokens: decoder(norm(activation(dense(x)))) + bias; ``activation`` None: the layers'.

    ``decoder`` None: always the table of words.
    """

    dense: str
    norm: str
    decoder: str | None
    bias: str
    activation: Activation | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """What a model type of the family is.

    Attributes:
        prefix: before the names of the tensors below a head.
        names: setting → how the configuration calls it, where that is not as in BERT.
        defaults: values of settings that the configuration may leave out.
        projection: between embeddings and layers, if they differ in width.
        first_position: row of the position table that a text's first token has; None: that behind the padding token's
            id, as in fairseq.
        newer_masked: the head that predicts tokens where the configuration says that it is not the ``legacy`` one.
        spare: beginnings of tensors that are in checkpoints also where the configuration has switched them off.
    """

    prefix: str
    layer: LayerNames
    sequence: SequenceHead
    masked: MaskedHead
    defaults: dict[str, Any]
    names: dict[str, str] = field(default_factory=dict)
    projection: str | None = None
    first_position: int | None = 0
    newer_masked: MaskedHead | None = None
    spare: tuple[str, ...] = ()


_BERT_LAYER = LayerNames(
    "encoder.layer.{}",
    "attention.self.query",
    "attention.self.key",
    "attention.self.value",
    "attention.output.dense",
    "attention.output.LayerNorm",
    "intermediate.dense",
    "output.dense",
    "output.LayerNorm",
)
_DISTILBERT_LAYER = LayerNames(
    "transformer.layer.{}",
    "attention.q_lin",
    "attention.k_lin",
    "attention.v_lin",
    "attention.out_lin",
    "sa_layer_norm",
    "ffn.lin1",
    "ffn.lin2",
    "output_layer_norm",
)
_ALBERT_LAYER = LayerNames(
    "encoder.albert_layer_groups.{}.albert_layers.{}",
    "attention.query",
    "attention.key",
    "attention.value",
    "attention.dense",
    "attention.LayerNorm",
    "ffn",
    "ffn_output",
    "full_layer_layer_norm",
)
_MPNET_LAYER = LayerNames(
    "encoder.layer.{}",
    "attention.attn.q",
    "attention.attn.k",
    "attention.attn.v",
    "attention.attn.o",
    "attention.LayerNorm",
    "intermediate.dense",
    "output.dense",
    "output.LayerNorm",
)

_DEBERTA_LAYER = LayerNames(
    "encoder.layer.{}",
    "attention.self.query_proj",
    "attention.self.key_proj",
    "attention.self.value_proj",
    "attention.output.dense",
    "attention.output.LayerNorm",
    "intermediate.dense",
    "output.dense",
    "output.LayerNorm",
    position_key="attention.self.pos_key_proj",
    position_query="attention.self.pos_query_proj",
)

_CLS = "cls.predictions"
_BERT_MASKED = MaskedHead(f"{_CLS}.transform.dense", f"{_CLS}.transform.LayerNorm", f"{_CLS}.decoder", f"{_CLS}.bias")
_LM_PREDICTIONS = MaskedHead(
    "lm_predictions.lm_head.dense", "lm_predictions.lm_head.LayerNorm", None, "lm_predictions.lm_head.bias"
)
_LM_HEAD = MaskedHead("lm_head.dense", "lm_head.layer_norm", "lm_head.decoder", "lm_head.bias", "gelu")
_BERT_SEQUENCE = SequenceHead("pooler.dense", "tanh", "classifier")
_TANH_SEQUENCE = SequenceHead("classifier.dense", "tanh", "classifier.out_proj")

_COMMON: dict[str, Any] = {
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "hidden_act": "gelu",
    "max_position_embeddings": 512,
    "layer_norm_eps": 1e-12,
}
_BERT_DEFAULTS = {**_COMMON, "vocab_size": 30522, "type_vocab_size": 2, "pad_token_id": 0}
_ROBERTA_DEFAULTS = {**_BERT_DEFAULTS, "pad_token_id": 1}


def _roberta(vocab_size: int) -> Member:
    return Member(
        prefix="roberta",
        layer=_BERT_LAYER,
        sequence=_TANH_SEQUENCE,
        masked=_LM_HEAD,
        defaults={**_ROBERTA_DEFAULTS, "vocab_size": vocab_size},
        first_position=None,
    )


ENCODERS: dict[str, Member] = {
    "bert": Member(
        prefix="bert", layer=_BERT_LAYER, sequence=_BERT_SEQUENCE, masked=_BERT_MASKED, defaults=_BERT_DEFAULTS
    ),
    "roberta": _roberta(50265),
    "xlm-roberta": _roberta(30522),
    "camembert": _roberta(30522),
    "distilbert": Member(
        prefix="distilbert",
        layer=_DISTILBERT_LAYER,
        sequence=SequenceHead("pre_classifier", "relu", "classifier"),
        masked=MaskedHead("vocab_transform", "vocab_layer_norm", "vocab_projector", "vocab_projector.bias"),
        defaults={
            "vocab_size": 30522,
            "dim": 768,
            "n_layers": 6,
            "n_heads": 12,
            "hidden_dim": 3072,
            "activation": "gelu",
            "max_position_embeddings": 512,
            "layer_norm_eps": 1e-12,
            "type_vocab_size": 0,
            "pad_token_id": 0,
        },
        names={
            "hidden_size": "dim",
            "num_hidden_layers": "n_layers",
            "num_attention_heads": "n_heads",
            "intermediate_size": "hidden_dim",
            "hidden_act": "activation",
        },
    ),
    "electra": Member(
        prefix="electra",
        layer=_BERT_LAYER,
        sequence=SequenceHead("classifier.dense", "gelu", "classifier.out_proj"),
        masked=MaskedHead(
            "generator_predictions.dense",
            "generator_predictions.LayerNorm",
            "generator_lm_head",
            "generator_lm_head.bias",
            "gelu",
        ),
        defaults={
            **_BERT_DEFAULTS,
            "embedding_size": 128,
            "hidden_size": 256,
            "num_attention_heads": 4,
            "intermediate_size": 1024,
        },
        projection="embeddings_project",
    ),
    "albert": Member(
        prefix="albert",
        layer=_ALBERT_LAYER,
        sequence=SequenceHead("pooler", "tanh", "classifier"),
        masked=MaskedHead("predictions.dense", "predictions.LayerNorm", "predictions.decoder", "predictions.bias"),
        defaults={
            **_BERT_DEFAULTS,
            "vocab_size": 30000,
            "embedding_size": 128,
            "hidden_size": 4096,
            "num_attention_heads": 64,
            "intermediate_size": 16384,
            "num_hidden_groups": 1,
            "inner_group_num": 1,
            "hidden_act": "gelu_new",
        },
        projection="encoder.embedding_hidden_mapping_in",
    ),
    "mpnet": Member(
        prefix="mpnet",
        layer=_MPNET_LAYER,
        sequence=_TANH_SEQUENCE,
        masked=_LM_HEAD,
        defaults={
            **_ROBERTA_DEFAULTS,
            "vocab_size": 30527,
            "type_vocab_size": 0,
            "relative_attention_num_buckets": 32,
        },
        first_position=2,
    ),
    "deberta-v2": Member(
        prefix="deberta",
        layer=_DEBERTA_LAYER,
        sequence=SequenceHead("pooler.dense", "gelu", "classifier"),
        masked=_BERT_MASKED,
        newer_masked=_LM_PREDICTIONS,
        defaults={
            **_BERT_DEFAULTS,
            "vocab_size": 128100,
            "hidden_size": 1536,
            "num_hidden_layers": 24,
            "num_attention_heads": 24,
            "intermediate_size": 6144,
            "layer_norm_eps": 1e-7,
            "type_vocab_size": 0,
            "pooler_hidden_act": "gelu",
            "position_biased_input": True,
            "relative_attention": False,
            "max_relative_positions": -1,
            "position_buckets": -1,
            "norm_rel_ebd": "none",
            "conv_kernel_size": 0,
            "conv_act": "tanh",
        },
        spare=("embeddings.position_embeddings.", "encoder.rel_embeddings.", "encoder.LayerNorm."),
    ),
}
