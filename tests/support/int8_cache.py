"""Bundles whose KV cache can be kept in int8, and what such a cache should give."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
from support.bundles import GRAPH_NAME, seal

from edgelm.bundle.bundle import read_manifest
from edgelm.bundle.progress import NoProgress
from edgelm.runtime.decoder import Decoder
from edgelm.runtime.session import Session
from edgelm_tools.cache_scales import KV_SCALES_NAME, measured_scales


def add_cache_scales(folder: Path) -> Path:
    """Gives a bundle of ``write_decoder_bundle`` scales measured over random tokens; returns its folder."""
    manifest = read_manifest(folder)
    assert manifest.kv is not None
    length = min(64, manifest.context_length)
    texts = np.random.default_rng(7).integers(3, manifest.vocab_size, (16, length))
    with closing(Session(folder / GRAPH_NAME, threads=1)) as session:
        decoder = Decoder(session, context_length=length, prefill_chunk=16)
        scales = measured_scales(decoder, manifest.kv, texts, NoProgress())
    (folder / KV_SCALES_NAME).write_bytes(scales.astype("<f4").tobytes())
    return seal(folder, kv=replace(manifest.kv, scales=KV_SCALES_NAME))
