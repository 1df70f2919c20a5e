"""The tensors of a LLaMA-family checkpoint: what they are called, and their shapes by its configuration."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgelm_tools.architectures.decoder_weights import Shape, check_names_and_shapes
from edgelm_tools.architectures.llama_spec import LlamaSpec
from edgelm_tools.checkpoint.base import BlockQuantized, Checkpoint, TextAssets

EMBEDDING, FINAL_NORM, HEAD = "model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"

# place of a norm in the graph → its tensor, by where the model has its norms
_PARALLEL = {"attention": "input_layernorm"}
_PRE = {**_PARALLEL, "mlp": "post_attention_layernorm"}
_POST = {"after_attention": "post_attention_layernorm", "after_mlp": "post_feedforward_layernorm"}
_SANDWICH = {"attention": "input_layernorm", "mlp": "pre_feedforward_layernorm", **_POST}
NORMS = {"pre": _PRE, "parallel": _PARALLEL, "post": _POST, "sandwich": _SANDWICH}

# Where checkpoints with vision keep the language model, and the parts of theirs that text does not pass.
_TEXT_PREFIXES = {"model.language_model.": "model.", "language_model.model.": "model.", "language_model.": ""}
_VISION_PREFIXES = ("vision_tower.", "multi_modal_projector.", "model.vision_tower.", "model.multi_modal_projector.")
# Old checkpoints store what is computed from the configuration.
_COMPUTED = "rotary_emb.inv_freq"


def text_part(checkpoint: Checkpoint) -> Checkpoint:
    """The language model of a checkpoint with vision, under the names it has alone; any other checkpoint as it is."""
    if any(name.startswith(tuple(_TEXT_PREFIXES)) for name in checkpoint.names()):
        return _TextPart(checkpoint)
    return checkpoint


def check_tensors(checkpoint: Checkpoint, spec: LlamaSpec) -> None:
    """See ``decoder_weights.check_names_and_shapes``."""
    needed = dict(_needed(spec, frozenset(checkpoint.names())))
    optional = dict(_optional(spec))
    check_names_and_shapes(checkpoint, needed, optional, computed=(_COMPUTED,), model_type=spec.model_type)


def _needed(spec: LlamaSpec, names: frozenset[str]) -> Iterator[tuple[str, Shape]]:
    yield EMBEDDING, (spec.vocab_size, spec.hidden_size)
    if not spec.tied_embeddings:
        yield HEAD, (spec.vocab_size, spec.hidden_size)
    norms = [FINAL_NORM]
    for i in range(spec.layers):
        norms += [f"model.layers.{i}.{norm}.weight" for norm in NORMS[spec.residual].values()]
        for name, shape in _matrices(spec, f"model.layers.{i}", names):
            yield f"{name}.weight", shape
        for kind, heads in (("q", spec.heads), ("k", spec.kv_heads)):
            if spec.qk_norm:
                size = spec.head_size * (heads if spec.qk_norm == "projection" else 1)
                yield f"model.layers.{i}.self_attn.{kind}_norm.weight", (size,)
    for norm in norms:
        yield norm, (spec.hidden_size,)
        if spec.norm == "layer":
            yield norm.removesuffix("weight") + "bias", (spec.hidden_size,)


def _optional(spec: LlamaSpec) -> Iterator[tuple[str, Shape]]:
    """The output head where it is the embedding, and biases: transformers takes those that are missing as 0."""
    yield HEAD, (spec.vocab_size, spec.hidden_size)
    for i in range(spec.layers):
        for name, (rows, _) in _matrices(spec, f"model.layers.{i}", frozenset()):
            if name.rpartition(".")[2] in spec.biased:
                yield f"{name}.bias", (rows,)


def _matrices(spec: LlamaSpec, layer: str, names: Iterable[str]) -> Iterator[tuple[str, tuple[int, int]]]:
    hidden, inner = spec.hidden_size, spec.intermediate_size
    queries, keys = spec.heads * spec.head_size, spec.kv_heads * spec.head_size
    if f"{layer}.self_attn.qkv_proj.weight" in names:
        yield f"{layer}.self_attn.qkv_proj", (queries + 2 * keys, hidden)
    else:
        for kind, rows in (("q", queries), ("k", keys), ("v", keys)):
            yield f"{layer}.self_attn.{kind}_proj", (rows, hidden)
    yield f"{layer}.self_attn.o_proj", (hidden, queries)
    if f"{layer}.mlp.gate_up_proj.weight" in names:
        yield f"{layer}.mlp.gate_up_proj", (2 * inner, hidden)
    else:
        for kind in ("gate", "up"):
            yield f"{layer}.mlp.{kind}_proj", (inner, hidden)
    yield f"{layer}.mlp.down_proj", (hidden, inner)


class _TextPart:
    """A view of another checkpoint; implements ``Checkpoint``."""

    def __init__(self, whole: Checkpoint) -> None:
        self.config: dict[str, Any] = whole.config
        self._whole = whole
        self._stored = {_text_name(name): name for name in whole.names() if not name.startswith(_VISION_PREFIXES)}

    def names(self) -> Iterable[str]:
        return self._stored.keys()

    def shape(self, name: str) -> Shape:
        return self._whole.shape(self._stored.get(name, name))

    def tensor(self, name: str) -> NDArray[np.float32]:
        return self._whole.tensor(self._stored.get(name, name))

    def row_parts(self, name: str, most_values: int) -> Iterator[NDArray[np.float32]]:
        return self._whole.row_parts(self._stored.get(name, name), most_values)

    def quantized(self, name: str) -> BlockQuantized | None:
        return self._whole.quantized(self._stored.get(name, name))

    def text_assets(self) -> TextAssets:
        return self._whole.text_assets()

    def close(self) -> None:
        self._whole.close()


def _text_name(stored: str) -> str:
    for prefix, alone in _TEXT_PREFIXES.items():
        if stored.startswith(prefix):
            return alone + stored.removeprefix(prefix)
    return stored
