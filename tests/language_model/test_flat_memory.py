"""Memory stays flat over many requests and many loads, and ``close`` gives everything back.

A leak of a kilobyte a request, or of a tiny model a load, would show: the bounds are far below that.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.bundles import VOCABULARY, TinyDecoder, write_decoder_bundle
from support.resident import settled_memory

import edgelm
from edgelm.language_model import LanguageModel

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="memory is measured as Linux tells it")

KB = 1024
REQUESTS = 300
LOADS = 40
# Weights of 3 MB: what is not given back is seen.
SIZES = TinyDecoder(layers=2, hidden=256, heads=4, kv_heads=2, head_size=64, ffn=512, context_length=512)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EDGELM_HOME", str(tmp_path / "home"))
    return write_decoder_bundle(tmp_path / "bundle", SIZES)


def mixed_request(lm: LanguageModel, number: int, random: np.random.Generator) -> None:
    """One of several kinds, in turn: short, long, sampled, beams, a batch, abandoned, cancelled by closing."""

    def prompt(most: int) -> list[int]:
        return random.integers(3, len(VOCABULARY), int(random.integers(1, most))).tolist()

    settings: dict[str, Any] = {"max_new_tokens": 8, "eos_token_id": []}
    match number % 7:
        case 0:
            lm.generate(prompt(10), **settings)
        case 1:
            lm.generate(prompt(400), **settings)
        case 2:
            lm.generate(prompt(50), do_sample=True, temperature=0.9, top_p=0.9, seed=number, **settings)
        case 3:
            lm.generate(prompt(30), num_beams=3, **settings)
        case 4:
            lm.generate_batch([prompt(20) for _ in range(4)], **settings)
        case 5:
            stream = lm.stream(prompt(100), **settings)
            next(stream)
            del stream
        case _:
            with lm.stream(prompt(100), **settings) as stream:
                next(stream)


def growth(action: Any, *, warm_up: int, times: int) -> int:
    """Bytes that resident memory grows by over ``times`` calls, once the first ones have made what is kept."""
    for number in range(warm_up):
        action(number)
    before = settled_memory()
    for number in range(times):
        action(number)
    return settled_memory() - before


def test_memory_is_flat_over_mixed_requests(folder: Path) -> None:
    random = np.random.default_rng(0)
    with edgelm.load(folder, prefix_caches=2) as lm:
        grown = growth(lambda number: mixed_request(lm, number, random), warm_up=100, times=REQUESTS)
    assert grown < REQUESTS * KB + 2048 * KB


def test_memory_is_flat_over_loads(folder: Path) -> None:
    def load_and_close(number: int) -> None:
        with edgelm.load(folder, prepack=bool(number % 2)) as lm:
            lm.generate("abc", max_new_tokens=3)

    grown = growth(load_and_close, warm_up=10, times=LOADS)
    assert grown < LOADS * 32 * KB + 1024 * KB


def test_close_gives_everything_back(folder: Path) -> None:
    with edgelm.load(folder, prepack=False) as lm:  # libraries and their caches are there now
        lm.generate([5] * 400, max_new_tokens=8)
    before = settled_memory()
    lm = edgelm.load(folder, prepack=False)
    lm.generate([5] * 400, max_new_tokens=8)
    held = settled_memory() - before
    lm.close()
    left = settled_memory() - before
    assert held > 3000 * KB
    assert left < 600 * KB
