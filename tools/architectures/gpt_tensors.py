"""The tensors of a GPT-family checkpoint: what they are called, and their shapes by its configuration."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from edgelm_tools.architectures.decoder_weights import Shape, check_names_and_shapes
from edgelm_tools.architectures.gpt_spec import GptSpec
from edgelm_tools.checkpoint.base import Checkpoint

PROJECT_IN, PROJECT_OUT = "project_in", "project_out"


@dataclass(frozen=True, slots=True, kw_only=True)
class Names:
    """What a model type calls its tensors, without ``.weight`` and ``.bias``.

    Attributes:
        roots: where the decoder may stand in the checkpoint: with the output head beside it, or alone.
        layer: the list of layers; names of a layer's parts follow its number.
        norms: of a layer: the norm of attention and that of the MLP.
        qkv: queries, keys and values, or one tensor for all three.
        interleaved: each head's queries, keys and values stand together in that one; otherwise all queries come first.
        transposed: layers' matrices are stored (inputs, outputs).
        position_offset: the row of the first position.
        computed: ends of names of tensors that follow from the configuration, in old checkpoints.
    """

    roots: tuple[str, ...]
    embedding: str
    head: str = "lm_head"
    layer: str
    norms: Mapping[str, str]
    final_norm: str
    embedding_norm: str = ""
    qkv: tuple[str, ...]
    output: str
    up: str
    down: str
    interleaved: bool = False
    transposed: bool = False
    positions: str = ""
    position_offset: int = 0
    computed: tuple[str, ...] = ()


# GPT-NeoX and BLOOM were both trained with Megatron.
_MEGATRON: dict[str, Any] = {
    "norms": {"attention": "input_layernorm", "mlp": "post_attention_layernorm"},
    "interleaved": True,
    "up": "mlp.dense_h_to_4h",
    "down": "mlp.dense_4h_to_h",
}
NAMES: dict[str, Names] = {
    "gpt2": Names(
        roots=("transformer.", ""),
        embedding="wte",
        positions="wpe",
        layer="h",
        norms={"attention": "ln_1", "mlp": "ln_2"},
        final_norm="ln_f",
        qkv=("attn.c_attn",),
        output="attn.c_proj",
        up="mlp.c_fc",
        down="mlp.c_proj",
        transposed=True,
        computed=(".attn.bias", ".attn.masked_bias"),
    ),
    "gpt_neox": Names(
        roots=("gpt_neox.", ""),
        embedding="embed_in",
        head="embed_out",
        layer="layers",
        final_norm="final_layer_norm",
        qkv=("attention.query_key_value",),
        output="attention.dense",
        **_MEGATRON,
        computed=(".attention.bias", ".attention.masked_bias", ".rotary_emb.inv_freq"),
    ),
    "opt": Names(
        roots=("model.decoder.", "decoder."),
        embedding="embed_tokens",
        positions="embed_positions",
        position_offset=2,
        layer="layers",
        norms={"attention": "self_attn_layer_norm", "mlp": "final_layer_norm"},
        final_norm="final_layer_norm",
        qkv=("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
        output="self_attn.out_proj",
        up="fc1",
        down="fc2",
    ),
    "bloom": Names(
        roots=("transformer.", ""),
        embedding="word_embeddings",
        embedding_norm="word_embeddings_layernorm",
        layer="h",
        final_norm="ln_f",
        qkv=("self_attention.query_key_value",),
        output="self_attention.dense",
        **_MEGATRON,
    ),
}


def root_of(checkpoint: Checkpoint, names: Names) -> str:
    """Where the decoder stands in the checkpoint."""
    stored = frozenset(checkpoint.names())
    return next((root for root in names.roots if f"{root}{names.embedding}.weight" in stored), names.roots[0])


def check_tensors(checkpoint: Checkpoint, spec: GptSpec, names: Names, root: str) -> None:
    """See ``decoder_weights.check_names_and_shapes``."""
    needed = {f"{root}{name}": shape for name, shape in _needed(spec, names)}
    head = {f"{names.head}.weight": (spec.vocab_size, spec.embedding_size)}
    optional = head if spec.tied_embeddings else {}
    needed |= {} if spec.tied_embeddings else head
    check_names_and_shapes(checkpoint, needed, optional, computed=names.computed, model_type=spec.model_type)


def _needed(spec: GptSpec, names: Names) -> Iterator[tuple[str, Shape]]:
    hidden = spec.hidden_size
    yield f"{names.embedding}.weight", (spec.vocab_size, spec.embedding_size)
    if names.positions:
        yield f"{names.positions}.weight", (spec.context_length + names.position_offset, hidden)
    if spec.projects_embeddings:
        yield f"{PROJECT_IN}.weight", (hidden, spec.embedding_size)
        yield f"{PROJECT_OUT}.weight", (spec.embedding_size, hidden)
    for norm in _norms(spec, names):
        yield f"{norm}.weight", (hidden,)
        yield f"{norm}.bias", (hidden,)
    for i in range(spec.layers):
        for name, rows, columns, biased in _matrices(spec, names):
            shape = (columns, rows) if names.transposed else (rows, columns)
            yield f"{names.layer}.{i}.{name}.weight", shape
            if biased:
                yield f"{names.layer}.{i}.{name}.bias", (rows,)


def _norms(spec: GptSpec, names: Names) -> Iterator[str]:
    if not spec.norm_weights:
        return
    if spec.embedding_norm:
        yield names.embedding_norm
    for i in range(spec.layers):
        for norm in names.norms.values():
            yield f"{names.layer}.{i}.{norm}"
    if spec.final_norm:
        yield names.final_norm


def _matrices(spec: GptSpec, names: Names) -> Iterator[tuple[str, int, int, bool]]:
    """Name, outputs, inputs, and whether it has a bias, of each matrix of a layer."""
    hidden, inner = spec.hidden_size, spec.intermediate_size
    for name in names.qkv:
        yield name, hidden if len(names.qkv) == 3 else 3 * hidden, hidden, spec.attention_bias
    yield names.output, hidden, hidden, spec.attention_bias
    yield names.up, inner, hidden, spec.mlp_bias
    yield names.down, hidden, inner, spec.mlp_bias
