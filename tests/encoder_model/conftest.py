from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from support.encoder_bundle import TinyEncoder, write_encoder_bundle

from edgelm.bundle.encoder_contract import ENCODER_TASKS
from edgelm.encoder_model import EncoderModel, load_encoder

settings.register_profile("no deadline", deadline=None)
settings.load_profile("no deadline")


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EDGELM_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A bundle for each task."""
    root = tmp_path_factory.mktemp("encoders")
    return {task: write_encoder_bundle(root / task, TinyEncoder(task=task)) for task in ENCODER_TASKS}


@pytest.fixture
def load(folders: dict[str, Path]) -> Iterator[Callable[..., EncoderModel]]:
    """Loads the bundle of a task, or any folder, with one thread and no prepacked copy unless asked."""
    opened: list[EncoderModel] = []

    def load(name: str | Path = "feature-extraction", **settings: Any) -> EncoderModel:
        settings = {"prepack": False, "threads": 1, **settings}
        opened.append(load_encoder(folders[name] if isinstance(name, str) else name, **settings))
        return opened[-1]

    yield load
    for model in opened:
        model.close()
