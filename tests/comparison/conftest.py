from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.bundles import TinyDecoder, write_decoder_bundle

import edgelm


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle with random weights; its context window has 64 tokens, of one letter each."""
    return write_decoder_bundle(tmp_path_factory.mktemp("bundles") / "tiny", TinyDecoder(layers=2, seed=3))


@pytest.fixture(scope="session")
def lm(folder: Path) -> Iterator[edgelm.LanguageModel]:
    with edgelm.load(folder, prepack=False, threads=1) as lm:
        yield lm
