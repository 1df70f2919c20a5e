from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings
from support.attention_bundles import write_inspected_decoder, write_inspected_encoder

import edgelm

settings.register_profile("no deadline", deadline=None)
settings.load_profile("no deadline")


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EDGELM_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture(scope="session")
def decoder_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_inspected_decoder(tmp_path_factory.mktemp("inspected") / "decoder")


@pytest.fixture(scope="session")
def encoder_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_inspected_encoder(tmp_path_factory.mktemp("inspected") / "encoder")


@pytest.fixture
def lm(decoder_folder: Path) -> Iterator[edgelm.LanguageModel]:
    with edgelm.load(decoder_folder, prepack=False, threads=1) as lm:
        yield lm


@pytest.fixture
def encoder(encoder_folder: Path) -> Iterator[edgelm.EncoderModel]:
    with edgelm.load_encoder(encoder_folder, prepack=False, threads=1) as encoder:
        yield encoder


@pytest.fixture(scope="session")
def shared(decoder_folder: Path) -> Iterator[edgelm.LanguageModel]:
    """For many examples: loaded once."""
    with edgelm.load(decoder_folder, prepack=False, threads=1) as lm:
        yield lm
