"""A cache that grows is never there twice: what is reserved for a longer conversation keeps to the budget."""

from __future__ import annotations

import subprocess
import sys

import pytest
from support.bundles import GRAPH_NAME, TinyDecoder, write_decoder_bundle

from edgelm.runtime.memory import MB

SIZES = TinyDecoder(layers=16, hidden=64, heads=8, kv_heads=8, head_size=64, ffn=64, context_length=4096)
TOKENS = 1000
BYTES = TOKENS * 2 * SIZES.layers * SIZES.kv_heads * SIZES.head_size * 4

ONE_SEQUENCE = """
decoder = Decoder(session, context_length=4096, prefill_chunk=64)
decoder.reserve(tokens)
decoder.prefill([5] * (tokens - 5))
for _ in range(5):
    decoder.step(5)
before = peak_memory()
decoder.reserve(tokens + 100)
decoder.step(5)
"""
ROWS = """
decoder = BatchDecoder(session, context_length=4096, prefill_chunk=64)
decoder.reserve(2, tokens)
decoder.prefill([[5] * (tokens // 2)] * 2)
decoder.step(np.array([5, 5]))
before = peak_memory()
decoder.select(np.array([0, 1, 1]))
decoder.step(np.array([5, 5, 5]))
"""
START = """
import sys
from pathlib import Path
import numpy as np
from edgelm.runtime.batch_decoder import BatchDecoder
from edgelm.runtime.decoder import Decoder
from edgelm.runtime.memory import peak_memory
from edgelm.runtime.session import Session
tokens = int(sys.argv[2])
session = Session(Path(sys.argv[1]), threads=1)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="counts pages as Linux does")
@pytest.mark.parametrize(("course", "more"), [(ONE_SEQUENCE, 0.0), (ROWS, 0.5)], ids=["sequence", "rows"])
def test_growing_takes_only_what_is_new(tmp_path, course, more):
    folder = write_decoder_bundle(tmp_path / "b", SIZES)
    code = f"{START}{course}print(peak_memory() - before)"
    command = [sys.executable, "-c", code, str(folder / GRAPH_NAME), str(TOKENS)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    grown = int(done.stdout)
    assert grown < (more + 0.2) * BYTES + 5 * MB, f"{grown / MB:.0f} MB more than a cache of {BYTES / MB:.0f} MB"
