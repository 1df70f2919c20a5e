"""Folders of optimum: graphs beside ``config.json``."""

from __future__ import annotations

from edgelm.bundle.layouts.base import Found
from edgelm.bundle.layouts.cpu import instruction_sets
from edgelm.bundle.layouts.listing import Listing
from edgelm.bundle.layouts.model_config import CONFIG_NAME, GENERATION_NAME, family_of, generation_settings
from edgelm.bundle.layouts.variants import choose, has_cross_attention, is_graph


class OptimumLayout:
    """``model.onnx``, or ``encoder_model.onnx`` and ``decoder_model*.onnx``, in the folder itself."""

    name = "optimum"

    def recognises(self, listing: Listing) -> bool:
        """See ``Layout``."""
        return CONFIG_NAME in listing.files and any(map(is_graph, listing.files))

    def read(self, listing: Listing, variant: str | None) -> Found:
        """See ``Layout``."""
        return found_in(listing, variant)


def found_in(listing: Listing, variant: str | None, *, folder: str = "") -> Found:
    """The model of a ``config.json``, with graphs in the folder itself or in its sub-folder ``onnx``.

    Raises:
        ConfigError, ModelError: see ``Layout``.
    """
    names = listing.graphs if folder else listing.files
    config = listing.read_object(CONFIG_NAME)
    family = "encoder-decoder" if has_cross_attention(names) else family_of(config)
    choice = choose(names, family=family, instructions=instruction_sets(), variant=variant)
    return Found(
        family=family,
        folder=folder,
        graphs=choice.graphs,
        variant=choice.variant,
        variants=choice.variants,
        config=config,
        generation=generation_settings(config, listing.optional_object(GENERATION_NAME)),
    )
