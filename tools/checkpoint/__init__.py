"""Checkpoint readers: safetensors, GGUF and Bergamot, memory-mapped, tensor by tensor, without torch."""

from __future__ import annotations

from pathlib import Path

from edgelm.errors import ModelError, ModelNotFoundError
from edgelm_tools.checkpoint.base import BlockQuantized, Checkpoint, TextAssets
from edgelm_tools.checkpoint.mapped_file import MappedFile

__all__ = ["BlockQuantized", "Checkpoint", "TextAssets", "open_checkpoint"]

_GGUF_MAGIC = b"GGUF"


def open_checkpoint(path: Path) -> Checkpoint:
    """Opens a checkpoint by what it is: a GGUF file, a folder with one, or with safetensors, or a Bergamot model.

    A ``.safetensors`` file stands for its folder.

    Raises:
        ModelNotFoundError: nothing is there.
        ModelError: it is no checkpoint, or a damaged one; says what was found.
        UnsupportedModelError: a kind of checkpoint that is not converted.
        MissingDependencyError: a package that the format needs is not installed.
    """
    path = Path(path)
    if path.is_dir():
        return _open_folder(path)
    if not path.is_file():
        raise ModelNotFoundError(f"{path}: no such file or folder")
    if path.suffix == ".safetensors":
        return _open_folder(path.parent)
    file = MappedFile(path)
    start = file.bytes(0, min(file.size, len(_GGUF_MAGIC)))
    file.close()
    if start != _GGUF_MAGIC:
        raise ModelError(f"{path}: neither a GGUF file nor safetensors: it begins with {start!r}")
    return _open_gguf(path)


def _open_folder(folder: Path) -> Checkpoint:
    # Imported here: a GGUF reader and its dependency are not needed for safetensors, nor the other way round.
    from edgelm_tools.checkpoint.safetensors_checkpoint import INDEX_NAME, SafetensorsCheckpoint, no_weights

    try:
        files = sorted(path for path in folder.iterdir() if path.is_file())
    except OSError as error:
        raise ModelError(f"{folder}: cannot be read: {error.strerror}") from error
    if any(path.suffix == ".safetensors" or path.name == INDEX_NAME for path in files):
        return SafetensorsCheckpoint(folder)
    gguf_files = [path for path in files if path.suffix == ".gguf"]
    if not gguf_files:
        from edgelm_tools.checkpoint.bergamot_checkpoint import BergamotCheckpoint, marian_files

        if marian_files(folder):
            return BergamotCheckpoint(folder)
        raise no_weights(folder)
    if len(gguf_files) > 1:
        names = ", ".join(path.name for path in gguf_files[:8])
        raise ModelError(f"{folder}: {len(gguf_files)} GGUF files ({names}); name the one to open")
    return _open_gguf(gguf_files[0])


def _open_gguf(path: Path) -> Checkpoint:
    from edgelm_tools.checkpoint.gguf_checkpoint import GGUFCheckpoint

    return GGUFCheckpoint(path)
