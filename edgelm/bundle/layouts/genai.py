"""Folders of onnxruntime-genai: ``genai_config.json`` names the graph, its inputs and outputs, and their sizes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from edgelm.bundle.fields import Fields
from edgelm.bundle.foreign_contract import PAST, PRESENT
from edgelm.bundle.layouts.base import Found
from edgelm.bundle.layouts.listing import Listing
from edgelm.bundle.layouts.variants import PLAIN
from edgelm.bundle.manifest import MAX_CONTEXT, MAX_HEAD_SIZE, MAX_HEADS, MAX_LAYERS, MAX_VOCAB
from edgelm.errors import ConfigError, UnsupportedModelError

CONFIG_NAME = "genai_config.json"
# Parts of models that see, hear, or have an encoder: their graphs work together in ways of their own.
_OTHER_PARTS = ("encoder", "vision", "speech", "embedding")
_SEARCH = (
    "do_sample",
    "num_beams",
    "temperature",
    "top_k",
    "top_p",
    "repetition_penalty",
    "length_penalty",
    "no_repeat_ngram_size",
)
_TOKENS = ("bos_token_id", "eos_token_id", "pad_token_id")
_PLAIN_NAMES = ("input_ids", "attention_mask", "position_ids")
_PATTERNS = {
    "past_key_names": (PAST, "key"),
    "past_value_names": (PAST, "value"),
    "present_key_names": (PRESENT, "key"),
    "present_value_names": (PRESENT, "value"),
}


class GenaiLayout:
    """``genai_config.json`` and one graph of a decoder."""

    name = "onnxruntime-genai"

    def recognises(self, listing: Listing) -> bool:
        """See ``Layout``."""
        return CONFIG_NAME in listing.files

    def read(self, listing: Listing, variant: str | None) -> Found:
        """See ``Layout``."""
        document = Fields(listing.read_object(CONFIG_NAME), document=CONFIG_NAME)
        model = document.object("model")
        others = [part for part in _OTHER_PARTS if model.has(part)]
        if others or not model.has("decoder"):
            what = f"a part {others[0]!r}" if others else "no decoder"
            raise UnsupportedModelError(
                f"{CONFIG_NAME}: a model with {what}; of this layout EdgeLM runs decoders alone"
            )
        if variant not in (None, PLAIN):
            raise ConfigError(f"there is no variant {variant!r:.80}; the folder has {PLAIN}")
        decoder = model.object("decoder")
        if decoder.has("pipeline"):
            raise UnsupportedModelError(f"{CONFIG_NAME}: a decoder in several graphs, which EdgeLM does not run")
        search = document.object("search") if document.has("search") else None
        return Found(
            family="decoder",
            graphs={"decoder": decoder.text("filename")},
            variant=PLAIN,
            variants=(PLAIN,),
            config=_config(model, decoder),
            generation=_generation(model, search),
            renamed=dict(_renamed(decoder)),
        )


def _config(model: Fields, decoder: Fields) -> dict[str, Any]:
    """As a ``config.json`` would have it."""
    return {
        "model_type": model.text("type"),
        "vocab_size": model.integer("vocab_size", 1, MAX_VOCAB),
        "max_position_embeddings": model.integer("context_length", 1, MAX_CONTEXT),
        "num_hidden_layers": decoder.integer("num_hidden_layers", 1, MAX_LAYERS),
        "num_attention_heads": decoder.integer("num_attention_heads", 1, MAX_HEADS),
        "num_key_value_heads": decoder.integer("num_key_value_heads", 1, MAX_HEADS),
        "head_dim": decoder.integer("head_size", 1, MAX_HEAD_SIZE),
        **{name: model.value(name) for name in _TOKENS if model.has(name)},
    }


def _generation(model: Fields, search: Fields | None) -> dict[str, Any]:
    settings = {name: model.value(name) for name in _TOKENS if model.has(name)}
    if search is not None:
        settings |= {name: search.value(name) for name in _SEARCH if search.has(name)}
    return settings


def _renamed(decoder: Fields) -> Iterator[tuple[str, str]]:
    """Usual name → the graph's, for those that differ. ``%d`` stands for the layer."""
    layers = decoder.integer("num_hidden_layers", 1, MAX_LAYERS)
    inputs, outputs = decoder.object("inputs"), decoder.object("outputs")
    for fields, names in ((inputs, _PLAIN_NAMES), (outputs, ("logits",))):
        for name in names:
            if fields.has(name) and fields.text(name) != name:
                yield name, fields.text(name)
    for pattern, (prefix, part) in _PATTERNS.items():
        fields = inputs if prefix == PAST else outputs
        if not fields.has(pattern):
            continue
        for layer in range(layers):
            usual, theirs = f"{prefix}{layer}.{part}", fields.text(pattern).replace("%d", str(layer))
            if usual != theirs:
                yield usual, theirs
