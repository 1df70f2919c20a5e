from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from support.bundles import TinyDecoder, made_here, write_decoder_bundle

from edgelm.cli.app import app

Invoke = Callable[..., Result]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An EDGELM_HOME with one installed model, ``tiny``; its context window has 64 tokens."""
    folder = tmp_path / "with spaces and 🦙 émojis"
    monkeypatch.setenv("EDGELM_HOME", str(folder))
    for name in ("EDGELM_DEBUG", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)
    made_here(write_decoder_bundle(folder / "models" / "tiny"))
    return folder


@pytest.fixture
def endless(home: Path) -> str:
    """A model that goes on for as long as it is let."""
    made_here(write_decoder_bundle(home / "models" / "endless", TinyDecoder(context_length=60_000), name="endless"))
    return "endless"


@pytest.fixture
def invoke(home: Path) -> Invoke:
    """Calls the command line in this process."""

    def call(*arguments: str, stdin: str | bytes = b"") -> Result:
        return CliRunner().invoke(app, list(arguments), input=stdin)

    return call
