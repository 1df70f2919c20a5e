"""What a model of another tool's folder takes memory for, as its ``config.json`` and tokenizer tell."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgelm.bundle.fields import Fields
from edgelm.bundle.layouts.listing import Listing
from edgelm.bundle.layouts.model_config import CONFIG_NAME
from edgelm.bundle.layouts.text_files import TOKENIZER_NAME
from edgelm.bundle.manifest import MAX_HEAD_SIZE, MAX_HEADS, MAX_HIDDEN, Footprint
from edgelm.bundle.tokenizer_kind import kind_of_file
from edgelm.errors import ManifestError

# What different architectures call it.
_HIDDEN = ("hidden_size", "d_model", "n_embd", "dim", "n_embed")
_INNER = ("intermediate_size", "d_ff", "encoder_ffn_dim", "decoder_ffn_dim", "ffn_dim", "n_inner", "hidden_dim")
_HEADS = ("num_attention_heads", "encoder_attention_heads", "num_heads", "n_head", "n_heads")
_HEAD_SIZE = ("head_dim", "d_kv")
_USUAL_HEAD_SIZE = 64
_USUAL_FEED_FORWARD = 4


def footprint_of_folder(config: Mapping[str, Any], listing: Listing) -> Footprint | None:
    """The sizes that a configuration states; None where it tells no hidden size."""
    fields = Fields(dict(config), document=CONFIG_NAME)
    hidden = _largest(fields, _HIDDEN, MAX_HIDDEN)
    if hidden is None:
        return None
    heads = _largest(fields, _HEADS, MAX_HEADS) or max(1, hidden // _USUAL_HEAD_SIZE)
    return Footprint(
        hidden_size=hidden,
        intermediate_size=_largest(fields, _INNER, MAX_HIDDEN) or min(MAX_HIDDEN, _USUAL_FEED_FORWARD * hidden),
        heads=heads,
        head_size=_largest(fields, _HEAD_SIZE, MAX_HEAD_SIZE) or min(MAX_HEAD_SIZE, max(1, hidden // heads)),
        attention="biased scores",  # their graphs hold all scores, and what is added to them
        gated=config.get("hidden_act") == "silu" or str(config.get("feed_forward_proj")).startswith("gated"),
        tied=config.get("tie_word_embeddings", True) is not False,
        tokenizer=_tokenizer(listing),
    )


def _largest(fields: Fields, names: tuple[str, ...], most: int) -> int | None:
    """The largest of the fields that are there; one that breaks its rule tells nothing: nothing is computed with it."""
    values = []
    for name in names:
        try:
            values += [fields.integer(name, 1, most)] if fields.has(name) else []
        except ManifestError:
            continue
    return max(values, default=None)


def _tokenizer(listing: Listing) -> str | None:
    if TOKENIZER_NAME not in listing.files:
        return None
    return kind_of_file(listing.folder / TOKENIZER_NAME)
