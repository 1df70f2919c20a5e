from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.bundles import TinyDecoder, write_decoder_bundle
from support.scripted_bundle import write_scripted_bundle

import edgelm

LETTERS = "abcdefghijklmnopqrstuvwxyz.?"
FOREIGN = "é你🌍"  # two, three and four bytes; none occurs twice


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EDGELM_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Bundles by name: ``tiny`` has random weights, the others say what they are named after."""
    root = tmp_path_factory.mktemp("bundles")
    return {
        "tiny": write_decoder_bundle(root / "tiny", TinyDecoder(layers=2, seed=3)),
        "letters": write_scripted_bundle(root / "letters", LETTERS),
        "endless": write_scripted_bundle(root / "endless", LETTERS, loop=True),
        "foreign": write_scripted_bundle(root / "foreign", FOREIGN, loop=True),
    }


@pytest.fixture
def load(folders: dict[str, Path]) -> Iterator[Callable[..., edgelm.LanguageModel]]:
    """Loads one of ``folders``, or any folder, with one thread and no prepacked copy unless asked."""
    opened: list[edgelm.LanguageModel] = []

    def load(name: str | Path, **settings: Any) -> edgelm.LanguageModel:
        settings = {"prepack": False, "threads": 1, **settings}
        opened.append(edgelm.load(folders[name] if isinstance(name, str) else name, **settings))
        return opened[-1]

    yield load
    for lm in opened:
        lm.close()
