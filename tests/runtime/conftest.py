from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import settings
from support.bundles import GRAPH_NAME, TinyDecoder, write_decoder_bundle

from edgelm.runtime.decoder import Decoder
from edgelm.runtime.session import Session

# Machines that run tests are busy.
settings.register_profile("no deadline", deadline=None)
settings.load_profile("no deadline")


@pytest.fixture(scope="session")
def sizes() -> TinyDecoder:
    return TinyDecoder(layers=2, context_length=600)


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory, sizes: TinyDecoder) -> Path:
    return write_decoder_bundle(tmp_path_factory.mktemp("decoder") / "tiny", sizes)


@pytest.fixture(scope="session")
def session(folder: Path) -> Iterator[Session]:
    session = Session(folder / GRAPH_NAME, threads=2)
    yield session
    session.close()


@pytest.fixture(scope="session")
def new_decoder(session: Session, sizes: TinyDecoder) -> Callable[..., Decoder]:
    def make(*, context_length: int = sizes.context_length, prefill_chunk: int = 512) -> Decoder:
        return Decoder(session, context_length=context_length, prefill_chunk=prefill_chunk)

    return make
