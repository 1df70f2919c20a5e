"""Folders of Transformers.js: optimum's, with the graphs in a sub-folder ``onnx``, in many variants."""

from __future__ import annotations

from edgelm.bundle.layouts.base import Found
from edgelm.bundle.layouts.listing import GRAPHS_FOLDER, Listing
from edgelm.bundle.layouts.model_config import CONFIG_NAME
from edgelm.bundle.layouts.optimum import found_in
from edgelm.bundle.layouts.variants import is_graph


class TransformersJsLayout:
    """``onnx/model_quantized.onnx``, ``onnx/decoder_model_merged_q4.onnx`` and so on."""

    name = "transformers.js"

    def recognises(self, listing: Listing) -> bool:
        """See ``Layout``."""
        return CONFIG_NAME in listing.files and any(map(is_graph, listing.graphs))

    def read(self, listing: Listing, variant: str | None) -> Found:
        """See ``Layout``."""
        return found_in(listing, variant, folder=GRAPHS_FOLDER)
