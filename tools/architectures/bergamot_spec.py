"""What a Bergamot model's configuration says, checked: which of Marian's many networks it is, and how large."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from edgelm.bundle.manifest import MAX_HEADS, MAX_LAYERS, MAX_VOCAB
from edgelm.errors import ModelError, UnsupportedModelError
from edgelm_tools.architectures.config_fields import ConfigFields

MAX_WIDTH = 1 << 16
# The models were trained on single sentences; positions are computed, so the tables' length is a choice.
SOURCE_LENGTH = 256
# Marian stops an answer that is this often as long as its source (``max-length-factor`` of these models).
LENGTH_FACTOR = 2.5

# The one network that is built: fields that would make another one, and the values that they must have.
_NETWORK: dict[str, str | bool | int] = {
    "type": "transformer",
    "dec-cell": "ssru",
    "transformer-decoder-autoreg": "rnn",
    "transformer-preprocess": "",
    "transformer-postprocess": "dan",
    "transformer-postprocess-emb": "d",
    "transformer-postprocess-top": "",
    "transformer-ffn-activation": "relu",
    "transformer-ffn-depth": 2,
    "transformer-no-projection": False,
    "transformer-train-position-embeddings": False,
    "tied-embeddings-all": True,
    "dec-cell-base-depth": 2,
    "dec-cell-high-depth": 1,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class BergamotSpec:
    """The sizes of a model; ``width`` is that of the residual stream, ``inner_width`` of feed-forward sublayers."""

    vocab_size: int
    width: int
    inner_width: int
    heads: int
    encoder_layers: int
    decoder_layers: int
    source_length: int = SOURCE_LENGTH
    target_length: int = int(SOURCE_LENGTH * LENGTH_FACTOR)

    @property
    def head_size(self) -> int:
        """Width of one head of all attentions."""
        return self.width // self.heads

    @property
    def scale(self) -> float:
        """Factor of the attentions' scores."""
        return 1 / math.sqrt(self.head_size)


def bergamot_spec(config: Mapping[str, Any], vocab_size: int) -> BergamotSpec:
    """Reads the configuration.

    Raises:
        UnsupportedModelError: another network than those of Firefox Translations; names the field.
        ModelError: a size is missing or out of range.
    """
    c = ConfigFields(config, what="special:model.yml")
    for name, wanted in _NETWORK.items():
        value = config.get(name)
        if value != wanted or isinstance(value, bool) != isinstance(wanted, bool):
            raise UnsupportedModelError(f"special:model.yml: {name} is {value!r:.60}; built are models with {wanted!r}")
    width = c.integer("dim-emb", least=8, most=MAX_WIDTH)
    heads = c.integer("transformer-heads", most=MAX_HEADS)
    if width % heads or width % 2:
        raise ModelError(f"special:model.yml: dim-emb {width} cannot be shared among {heads} heads, or is odd")
    if not 1 < vocab_size <= MAX_VOCAB:
        raise ModelError(f"special:model.yml: a vocabulary of {vocab_size}")
    return BergamotSpec(
        vocab_size=vocab_size,
        width=width,
        inner_width=c.integer("transformer-dim-ffn", most=MAX_WIDTH),
        heads=heads,
        encoder_layers=c.integer("enc-depth", most=MAX_LAYERS),
        decoder_layers=c.integer("dec-depth", most=MAX_LAYERS),
    )
