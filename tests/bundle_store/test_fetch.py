from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest
from support.progress import RecordedProgress

from edgelm.bundle.fetch import fetch
from edgelm.bundle.files import largest_file, tree_size
from edgelm.bundle.progress import transfer, watching
from edgelm.bundle.sources import LocalSource
from edgelm.errors import ConfigError, IntegrityError, ModelNotFoundError

SHA256 = hashlib.sha256(b"weights").hexdigest()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "with spaces and 🦙.gguf"
    path.write_bytes(b"weights")
    return path


@pytest.mark.parametrize("sha256", [None, SHA256, SHA256.upper()])
def test_a_file_stays_where_it_is(file: Path, sha256: str | None) -> None:
    fetched = fetch(LocalSource(file), sha256=sha256, offline=True)
    assert (fetched.path, fetched.uri) == (file, f"local:{file.name}")
    assert (fetched.revision, fetched.sha256) == (None, SHA256)


def test_a_changed_file_is_refused(file: Path) -> None:
    file.write_bytes(b"weights!")
    with pytest.raises(IntegrityError, match=SHA256):
        fetch(LocalSource(file), sha256=SHA256)


def test_a_folder_has_no_hash(tmp_path: Path) -> None:
    fetched = fetch(LocalSource(tmp_path))
    assert (fetched.path, fetched.sha256) == (tmp_path, None)
    with pytest.raises(ConfigError, match="is a folder"):
        fetch(LocalSource(tmp_path), sha256=SHA256)


def test_what_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match="no-such"):
        fetch(LocalSource(tmp_path / "no-such"))


def test_watching_tells_what_is_written_meanwhile_and_no_more(tmp_path: Path) -> None:
    (tmp_path / "before").write_bytes(bytes(100))
    progress = RecordedProgress()
    with transfer(progress, "x", None), watching(lambda: tree_size(tmp_path), progress):
        (tmp_path / "one").write_bytes(bytes(10))
        (tmp_path / "sub").mkdir()
        (tmp_path / "sub" / "two").write_bytes(bytes(200))
    assert progress.transfers == [("x", None, 210)]
    assert progress.open == 0


def test_sizes(tmp_path: Path) -> None:
    assert (tree_size(tmp_path), largest_file(tmp_path), tree_size(tmp_path / "none")) == (0, 0, 0)
    (tmp_path / "a").write_bytes(bytes(3))
    (tmp_path / "b").write_bytes(bytes(4))
    assert (tree_size(tmp_path), largest_file(tmp_path)) == (7, 4)


def test_the_import_is_light() -> None:
    code = (
        "import sys, edgelm.bundle.fetch, edgelm.bundle.store\n"
        "print({'huggingface_hub', 'pip', 'onnxruntime', 'tokenizers', 'onnx', 'torch'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
