"""``open_checkpoint`` tells formats by what is there, and imports only what it needs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from support.checkpoints import llama_metadata, llama_tensors, safetensors_bytes, write_folder, write_gguf

from edgelm.errors import MissingDependencyError, ModelError, ModelNotFoundError, UnsupportedModelError
from edgelm_tools.checkpoint import open_checkpoint
from edgelm_tools.checkpoint.gguf_checkpoint import GGUFCheckpoint
from edgelm_tools.checkpoint.safetensors_checkpoint import SafetensorsCheckpoint

WEIGHTS = safetensors_bytes({"x": np.zeros(2, np.float32)})


@pytest.fixture
def gguf_file(tmp_path: Path) -> Path:
    return write_gguf(tmp_path / "model.gguf", llama_metadata(), llama_tensors())


def test_a_gguf_file_whatever_its_name(gguf_file: Path, tmp_path: Path) -> None:
    assert isinstance(open_checkpoint(gguf_file), GGUFCheckpoint)
    renamed = gguf_file.rename(tmp_path / "weights with spaces 🙂")
    assert isinstance(open_checkpoint(renamed), GGUFCheckpoint)


def test_a_folder_with_one_gguf_file(gguf_file: Path) -> None:
    assert isinstance(open_checkpoint(gguf_file.parent), GGUFCheckpoint)


def test_of_several_gguf_files_none_is_guessed(gguf_file: Path) -> None:
    (gguf_file.parent / "other.gguf").write_bytes(gguf_file.read_bytes())
    with pytest.raises(ModelError, match=r"2 GGUF files \(model\.gguf, other\.gguf\)"):
        open_checkpoint(gguf_file.parent)


def test_a_safetensors_folder_and_a_file_in_it(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "m", {"config.json": {}, "model.safetensors": WEIGHTS})
    assert isinstance(open_checkpoint(folder), SafetensorsCheckpoint)
    assert isinstance(open_checkpoint(folder / "model.safetensors"), SafetensorsCheckpoint)


def test_what_is_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match="no such file or folder"):
        open_checkpoint(tmp_path / "nothing")
    with pytest.raises(ModelError, match="found nothing"):
        open_checkpoint(tmp_path)
    (tmp_path / "notes.txt").write_bytes(b"PK\x03\x04")
    with pytest.raises(ModelError, match=r"found notes\.txt"):
        open_checkpoint(tmp_path)
    with pytest.raises(ModelError, match="neither a GGUF file nor safetensors"):
        open_checkpoint(tmp_path / "notes.txt")
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80")
    with pytest.raises(UnsupportedModelError, match="pickle"):
        open_checkpoint(tmp_path)


def test_safetensors_need_neither_gguf_nor_torch(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "m", {"config.json": {}, "model.safetensors": WEIGHTS})
    script = (
        "import sys; from pathlib import Path; from edgelm_tools.checkpoint import open_checkpoint;"
        f"open_checkpoint(Path({str(folder)!r})).tensor('x');"
        "print([name for name in ('gguf', 'torch', 'transformers', 'onnx', 'safetensors') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_without_the_package_gguf(gguf_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'edgelm\[tools\]'"):
        open_checkpoint(gguf_file)
