"""Bundles whose KV cache can be kept in int8, and what such a cache should give."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from onnx import numpy_helper
from support.bundles import GRAPH_NAME, TinyDecoder, decoder_model, seal

from edgelm.bundle.bundle import read_manifest
from edgelm.bundle.onnx_reader import read_model
from edgelm.bundle.progress import NoProgress
from edgelm.runtime.decoder import Decoder
from edgelm.runtime.int8_cache import Scales, quantized
from edgelm.runtime.rotary import rotary_angles
from edgelm.runtime.session import Session
from edgelm_tools.cache_scales import KV_SCALES_NAME, Turning, measured_scales


def add_cache_scales(folder: Path) -> Path:
    """Gives a bundle of ``write_decoder_bundle`` scales measured over random tokens; returns its folder."""
    manifest = read_manifest(folder)
    assert manifest.kv is not None
    length = min(64, manifest.context_length)
    texts = np.random.default_rng(7).integers(3, manifest.vocab_size, (16, length))
    with closing(Session(folder / GRAPH_NAME, threads=1)) as session:
        decoder = Decoder(session, context_length=length, prefill_chunk=16)
        angles = rotary_angles(read_model((folder / GRAPH_NAME).read_bytes(), what=GRAPH_NAME).graph, folder)
        turning = Turning(angles, manifest.context_length)
        scales = measured_scales(decoder, manifest.kv, turning, texts, NoProgress())
    (folder / KV_SCALES_NAME).write_bytes(scales.astype("<f4").tobytes())
    return seal(folder, kv=replace(manifest.kv, scales=KV_SCALES_NAME))


def reference_logits(sizes: TinyDecoder, ids: NDArray[np.int64], scales: Scales | None = None) -> NDArray[np.float32]:
    """The logits of ``decoder_model`` after each of the ids, (T, V), in NumPy.

    ``scales``: keys and values, also the newest, are rounded to multiples of them before they are used.
    """
    weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in decoder_model(sizes).graph.initializer}
    x = weights["embeddings"][ids]
    for layer in range(sizes.layers):
        name = f"layer{layer}"
        normed = _norm(x, weights[f"{name}_attention_norm_scale"])
        packed = (normed @ weights[f"{name}_qkv"]).reshape(len(ids), -1, sizes.head_size)
        queries, keys, values = np.split(packed, [sizes.heads, sizes.heads + sizes.kv_heads], axis=1)
        queries, keys = (_rotated(part, weights["rope_cos"], weights["rope_sin"]) for part in (queries, keys))
        if scales is not None:
            keys, values = (
                quantized(part, scale) * scale for part, scale in zip((keys, values), scales[layer], strict=True)
            )
        x = x + _attended(queries, keys, values) @ weights[f"{name}_o"]
        up = _norm(x, weights[f"{name}_ffn_norm_scale"]) @ weights[f"{name}_up"]
        x = x + up / (1 + np.exp(-up)) @ weights[f"{name}_down"]
    return _norm(x, weights["final_norm_scale"]) @ weights["head"]


def _norm(x: NDArray[np.float32], scale: NDArray[np.float32]) -> NDArray[np.float32]:
    return x / np.sqrt(np.square(x).mean(axis=-1, keepdims=True) + 1e-5) * scale


def _rotated(heads: NDArray[np.float32], cos: NDArray[np.float32], sin: NDArray[np.float32]) -> NDArray[np.float32]:
    """(T, heads, head_size) at positions 0, 1, …"""
    cos, sin = cos[: len(heads), None], sin[: len(heads), None]
    first, second = np.split(heads, 2, axis=-1)
    return np.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)


def _attended(
    queries: NDArray[np.float32], keys: NDArray[np.float32], values: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Causal attention with grouped heads: (T, heads · head_size)."""
    group = queries.shape[1] // keys.shape[1]
    keys, values = (np.repeat(part, group, axis=1) for part in (keys, values))
    scores = np.einsum("qhd,khd->hqk", queries, keys) / np.sqrt(queries.shape[2])
    scores = np.where(np.tri(len(queries), dtype=bool), scores, -np.inf)
    shares = np.exp(scores - scores.max(axis=-1, keepdims=True))
    shares /= shares.sum(axis=-1, keepdims=True)
    return np.einsum("hqk,khd->qhd", shares, values).reshape(len(queries), -1)
