"""Tiny bundles whose attention can be looked at: their nodes have the names that the exporter gives."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
from support.bundles import TinyDecoder, write_decoder_bundle
from support.encoder_bundle import TinyEncoder, write_encoder_bundle

LAYERS, HEADS = 3, 4
ENCODER_HEADS = 3
_OPERATORS = ("GroupQueryAttention", "MultiHeadAttention")


def name_attention(model: onnx.ModelProto) -> None:
    """Calls the attention of layer i ``layer{i}.attention``."""
    for layer, node in enumerate(node for node in model.graph.node if node.op_type in _OPERATORS):
        node.name = f"layer{layer}.attention"


def write_inspected_decoder(folder: Path, **changes: Any) -> Path:
    """A decoder of ``LAYERS`` layers with ``HEADS`` heads in two groups."""
    sizes = TinyDecoder(layers=LAYERS, heads=HEADS, kv_heads=2, **changes)
    return write_decoder_bundle(folder, sizes, edit=name_attention)


def write_inspected_encoder(folder: Path, **changes: Any) -> Path:
    """An encoder of one layer with ``ENCODER_HEADS`` heads."""
    return write_encoder_bundle(folder, TinyEncoder(heads=ENCODER_HEADS, **changes), edit=name_attention)
