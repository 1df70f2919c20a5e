"""What distinguishes one encoder of the BERT family from another, read from its configuration into a frozen record."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from edgelm.bundle.manifest import MAX_HEADS, MAX_HIDDEN, MAX_LAYERS, MAX_VOCAB, Head
from edgelm.errors import ModelError, UnsupportedModelError
from edgelm_tools.architectures.config_fields import ConfigFields
from edgelm_tools.architectures.decoder_layers import ACTIVATIONS, Activation
from edgelm_tools.architectures.disentangled import MOST_POSITIONS, Disentangled, disentangled, position_terms
from edgelm_tools.architectures.encoder_members import ENCODERS, Member
from edgelm_tools.architectures.labels import head_of

Task = Literal["bare", "sequence", "token", "question", "masked"]

# End of the class in ``architectures`` → what stands on the encoder. ELECTRA's pre-training head only tells replaced
# tokens from true ones: its checkpoints are published to be used without it.
_TASKS: dict[str, Task] = {
    "ForSequenceClassification": "sequence",
    "ForTokenClassification": "token",
    "ForQuestionAnswering": "question",
    "ForMaskedLM": "masked",
    "Model": "bare",
}
_PRETRAINED: dict[str, Task] = {"bert": "masked", "albert": "masked", "electra": "bare"}
_BUCKETS = 32
_WIDEST_KERNEL = 63


@dataclass(frozen=True, slots=True)
class Convolution:
    """What is added to the first layer's output: activation(a convolution of the embeddings over ``size`` tokens)."""

    size: int
    activation: Activation


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderSpec:
    """An encoder of the BERT family, and the head on it.

    Attributes:
        layer_paths: where the tensors of each layer are, in the order of computation; shared layers occur repeatedly.
        first_position: row of the position table for a text's first token; the rows before it are not used.
        position_table: whether positions have vectors that are added to the words'.
        token_types: rows of the token types' table; 0: there is none.
        relative_buckets: rows of the table of relative positions that all layers share; None: there is none.
        disentangled: how distances enter the scores of each layer; None: they do not.
        score_scale: what products of queries and keys are multiplied by; None: 1 / √head size.
        convolution: beside the first layer; None: there is none.
    """

    model_type: str
    member: Member
    task: Task
    head: Head | None
    hidden_size: int
    embedding_size: int
    intermediate_size: int
    heads: int
    layer_paths: tuple[str, ...]
    vocab_size: int
    positions: int
    first_position: int
    position_table: bool
    token_types: int
    relative_buckets: int | None
    disentangled: Disentangled | None
    score_scale: float | None
    convolution: Convolution | None
    norm_epsilon: float
    activation: Activation
    tied: bool

    @property
    def context_length(self) -> int:
        """Positions that are really usable."""
        return self.positions - self.first_position

    @property
    def projects(self) -> str | None:
        """The linear layer that widens the embeddings; None where there is none."""
        widens = self.embedding_size != self.hidden_size or self.model_type == "albert"
        return self.member.projection if widens else None


def encoder_spec(config: Mapping[str, Any]) -> EncoderSpec:
    """Reads a configuration.

    Raises:
        UnsupportedModelError: a setting of an encoder that is not built; names it.
        ModelError: a field is missing or breaks its rule.
    """
    model_type = str(config["model_type"])
    fields = ConfigFields(config, ENCODERS[model_type].defaults, what="config.json")
    member = _member(model_type, fields)

    def size(name: str, most: int = MAX_HIDDEN) -> int:
        return fields.integer(member.names.get(name, name), most=most)

    _refuse_variants(fields)
    hidden, heads = size("hidden_size"), size("num_attention_heads", MAX_HEADS)
    if hidden % heads:
        raise ModelError(f"config.json: hidden_size {hidden} is no multiple of num_attention_heads {heads}")
    if "relative_attention" in member.defaults:
        _refuse_other_widths(fields, hidden, heads)
    first = fields.integer("pad_token_id", least=0) + 1 if member.first_position is None else member.first_position
    positions = fields.integer("max_position_embeddings", least=first + 1, most=MOST_POSITIONS)
    terms = position_terms(config, fields) if "relative_attention" in member.defaults else ()
    task = _task(fields, config, model_type)
    return EncoderSpec(
        model_type=model_type,
        member=member,
        task=task,
        head=head_of(fields) if task in ("sequence", "token") else None,
        hidden_size=hidden,
        embedding_size=fields.integer("embedding_size") if member.projection else hidden,
        intermediate_size=size("intermediate_size"),
        heads=heads,
        layer_paths=_layer_paths(fields, member, size("num_hidden_layers", MAX_LAYERS)),
        vocab_size=fields.integer("vocab_size", most=MAX_VOCAB),
        positions=positions,
        first_position=first,
        position_table="position_biased_input" not in member.defaults or fields.flag("position_biased_input"),
        token_types=fields.integer("type_vocab_size", least=0),
        relative_buckets=_relative_buckets(fields, member),
        disentangled=disentangled(fields, terms, positions),
        score_scale=1 / math.sqrt(hidden // heads * (1 + len(terms))) if terms else None,
        convolution=_convolution(fields, member),
        norm_epsilon=fields.real("layer_norm_eps"),
        activation=ACTIVATIONS[fields.choice(member.names.get("hidden_act", "hidden_act"), ACTIVATIONS)],
        tied=member.masked.decoder is None or fields.flag("tie_word_embeddings", default=True),
    )


def _member(model_type: str, fields: ConfigFields) -> Member:
    """The member with the heads that the configuration chooses."""
    member = ENCODERS[model_type]
    if member.newer_masked and not fields.flag("legacy", default=True):
        member = replace(member, masked=member.newer_masked)
    if "pooler_hidden_act" in member.defaults:
        activation = ACTIVATIONS[fields.choice("pooler_hidden_act", ACTIVATIONS)]
        member = replace(member, sequence=replace(member.sequence, activation=activation))
    return member


def _refuse_variants(fields: ConfigFields) -> None:
    for name in ("is_decoder", "add_cross_attention"):
        if fields.flag(name):
            raise UnsupportedModelError(f"config.json: {name} is true; encoders that are decoders are not built")
    if fields.has("position_embedding_type"):
        fields.choice("position_embedding_type", ["absolute"])


def _refuse_other_widths(fields: ConfigFields, hidden: int, heads: int) -> None:
    """DeBERTa's settings of widths, all of which checkpoints leave at those of the stream."""
    for name, width in (
        ("embedding_size", hidden),
        ("pooler_hidden_size", hidden),
        ("attention_head_size", hidden // heads),
    ):
        if fields.has(name) and fields.integer(name) != width:
            raise UnsupportedModelError(f"config.json: {name} must be {width}, as the rest of the model")


def _convolution(fields: ConfigFields, member: Member) -> Convolution | None:
    if "conv_kernel_size" not in member.defaults or not fields.integer("conv_kernel_size", least=0):
        return None
    size = fields.integer("conv_kernel_size", most=_WIDEST_KERNEL)
    if size % 2 == 0:
        raise fields.fault("conv_kernel_size", f"must be odd, not {size}")
    if fields.has("conv_groups") and fields.integer("conv_groups") != 1:
        raise UnsupportedModelError("config.json: conv_groups must be 1")
    if fields.integer("num_hidden_layers") == 1:
        raise UnsupportedModelError(
            "config.json: a convolution (conv_kernel_size) in a model of one layer is not built"
        )
    return Convolution(size, ACTIVATIONS[fields.choice("conv_act", ACTIVATIONS)])


def _relative_buckets(fields: ConfigFields, member: Member) -> int | None:
    if "relative_attention_num_buckets" not in member.defaults:
        return None
    # transformers sizes the table by the setting, but always reads it as if that were 32.
    if fields.integer("relative_attention_num_buckets") != _BUCKETS:
        raise UnsupportedModelError(f"config.json: relative_attention_num_buckets must be {_BUCKETS}")
    return _BUCKETS


def _layer_paths(fields: ConfigFields, member: Member, layers: int) -> tuple[str, ...]:
    if "num_hidden_groups" not in member.defaults:
        return tuple(member.layer.path.format(i) for i in range(layers))
    groups = fields.integer("num_hidden_groups", most=layers)
    inner = fields.integer("inner_group_num", most=MAX_LAYERS // layers)
    return tuple(member.layer.path.format(int(i / (layers / groups)), j) for i in range(layers) for j in range(inner))


def _task(fields: ConfigFields, config: Mapping[str, Any], model_type: str) -> Task:
    classes = config.get("architectures") or ["Model"]
    if not isinstance(classes, list) or not isinstance(classes[0], str):
        raise fields.fault("architectures", f"must be a list of names, not {classes!r:.80}")
    if classes[0].endswith("ForPreTraining") and model_type in _PRETRAINED:
        return _PRETRAINED[model_type]
    for end, task in _TASKS.items():
        if classes[0].endswith(end):
            return task
    known = ", ".join(_TASKS)
    raise UnsupportedModelError(
        f"config.json: architectures names {classes[0]!r:.80}; built are those that end in {known}"
    )
