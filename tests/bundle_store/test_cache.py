"""What is kept beside the models can be deleted, and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgelm.bundle.cache import clear_cache
from edgelm.bundle.publish import publishing


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EDGELM_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def write(path: Path, size: int = 100) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(bytes(size))
    return path


def test_all_but_models_and_catalog_goes(home: Path) -> None:
    gone = [
        write(home / "downloads" / "package-1.0-abc" / "file" / "model.gguf", 1000),
        write(home / "downloads" / ".package-2.0-abc.edgelm-new-0123abcd" / "scratch" / "half", 500),
        write(home / "prepacked" / "abc-1.32.0-1" / "graph.onnx", 200),
        write(home / "stamps" / "abc.json", 7),
        write(home / "models" / ".other.edgelm-new-0123abcd" / "decoder.onnx", 300),
        write(home / "models" / ".other.edgelm-trash-0123abcd" / "decoder.onnx", 30),
    ]
    kept = [write(home / "models" / "tiny" / "edgelm.json"), write(home / "catalog.toml")]
    assert clear_cache() == (2037, [])
    assert not any(path.exists() for path in gone)
    assert all(path.exists() for path in kept)
    assert not list((home / "models").glob(".*"))
    assert clear_cache() == (0, [])


def test_nothing_is_made_where_nothing_is(home: Path) -> None:
    assert clear_cache() == (0, [])
    assert not home.exists()


def test_what_is_being_written_stays(home: Path) -> None:
    with publishing(home / "downloads" / "package") as folder:
        write(folder / "half", 50)
        done = write(home / "downloads" / "done" / "file", 5)
        assert clear_cache() == (5, [home / "downloads" / "package"])
        assert (folder / "half").exists()
        assert not done.exists()
    assert (home / "downloads" / "package" / "half").exists()
