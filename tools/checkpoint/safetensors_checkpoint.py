"""Checkpoints in Hugging Face's folder layout: config.json, tokenizer.json and safetensors, one file or shards."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgelm.errors import ModelError, UnsupportedModelError
from edgelm_tools.checkpoint.base import BlockQuantized, TextAssets
from edgelm_tools.checkpoint.folder_text import read_text_assets
from edgelm_tools.checkpoint.mapped_file import MappedFile
from edgelm_tools.checkpoint.safetensors_header import TensorEntry, read_header
from edgelm_tools.checkpoint.strict_json import read_json_object

WEIGHTS_NAME = "model.safetensors"
INDEX_NAME = "model.safetensors.index.json"
PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
_NUMPY_DTYPES = {"F32": "<f4", "F16": "<f2", "F64": "<f8"}


class SafetensorsFile:
    """One open file of tensors, by name.

    Raises:
        ModelError: it is missing or breaks the format.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = MappedFile(path)
        self._entries = read_header(self._file)

    def names(self) -> Iterable[str]:
        """Names of all tensors, in the file's order."""
        return self._entries.keys()

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor that is there."""
        return self._entries[name].shape

    def tensor(self, name: str) -> NDArray[np.float32]:
        """A tensor that is there, as a new float32 array; F32, F16, BF16 and F64 are read.

        Raises:
            UnsupportedModelError: it is of another dtype.
        """
        values = _read(self._file, self._entries[name], name)
        self._file.forget()
        return values

    def row_parts(self, name: str, most_values: int) -> Iterator[NDArray[np.float32]]:
        """The rows of a tensor that is there, some at a time."""
        entry = self._entries[name]
        rows = entry.shape[0] if entry.shape else 1
        row_bytes = (entry.end - entry.start) // max(1, rows)
        step = max(1, most_values * rows // max(1, int(np.prod(entry.shape))))
        for first in range(0, rows, step):
            end = min(first + step, rows)
            shape, start = (end - first, *entry.shape[1:]), entry.start
            part = replace(entry, shape=shape, start=start + first * row_bytes, end=start + end * row_bytes)
            values = _read(self._file, part, name)
            self._file.forget()
            yield values

    def close(self) -> None:
        """Unmaps the file."""
        self._file.close()


class SafetensorsCheckpoint:
    """An open folder with safetensors weights; implements ``Checkpoint``. No torch, nothing executed.

    Symbolic links are followed: the Hugging Face cache is made of them.

    Raises:
        ModelError: a file is missing or breaks the format; the message names it.
        UnsupportedModelError: pickled weights only, remote code, or weights quantized by another tool.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        self.config: dict[str, Any] = _read_config(self.folder)
        self._files: dict[str, SafetensorsFile] = {}
        if (self.folder / WEIGHTS_NAME).is_file():
            file = SafetensorsFile(self.folder / WEIGHTS_NAME)
            self._files = dict.fromkeys(file.names(), file)
        elif (self.folder / INDEX_NAME).is_file():
            self._files = _open_shards(self.folder)
        else:
            raise no_weights(self.folder)

    def names(self) -> Iterable[str]:
        """Names of all tensors, as the file has them."""
        return self._files.keys()

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor.

        Raises:
            ModelError: there is no such tensor.
        """
        return self._find(name).shape(name)

    def tensor(self, name: str) -> NDArray[np.float32]:
        """The tensor as a new float32 array; F32, F16, BF16 and F64 are read.

        Raises:
            ModelError: there is no such tensor.
            UnsupportedModelError: it is of another dtype.
        """
        return self._find(name).tensor(name)

    def row_parts(self, name: str, most_values: int) -> Iterator[NDArray[np.float32]]:
        """The rows of ``tensor``, some at a time.

        Raises:
            ModelError: there is no such tensor.
            UnsupportedModelError: it is of another dtype.
        """
        return self._find(name).row_parts(name, most_values)

    def quantized(self, name: str) -> BlockQuantized | None:
        """None: this format's weights are floating point.

        Raises:
            ModelError: there is no such tensor.
        """
        self._find(name)
        return None

    def text_assets(self) -> TextAssets:
        """Tokenizer, chat template and generation settings from the folder.

        Raises:
            UnsupportedModelError: there is no ``tokenizer.json``.
            ModelError: one of the files is malformed.
        """
        return read_text_assets(self.folder)

    def close(self) -> None:
        """Unmaps the files."""
        for file in self._files.values():
            file.close()

    def _find(self, name: str) -> SafetensorsFile:
        if name not in self._files:
            raise ModelError(f"{self.folder}: no tensor named {name!r:.120}")
        return self._files[name]


def _read(file: MappedFile, entry: TensorEntry, name: str) -> NDArray[np.float32]:
    if entry.dtype == "BF16":
        # bfloat16 is the upper half of a float32.
        halves = file.array("<u2", entry.start, (entry.end - entry.start) // 2)
        return (halves.astype(np.uint32) << 16).view(np.float32).reshape(entry.shape)
    if entry.dtype not in _NUMPY_DTYPES:
        known = ", ".join(["BF16", *_NUMPY_DTYPES])
        raise UnsupportedModelError(f"{file.path}: tensor {name!r} is {entry.dtype}; read are {known}")
    dtype = np.dtype(_NUMPY_DTYPES[entry.dtype])
    stored = file.array(dtype, entry.start, (entry.end - entry.start) // dtype.itemsize)
    with np.errstate(over="ignore"):  # a float64 beyond float32's range becomes infinity
        return stored.astype(np.float32).reshape(entry.shape)


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    if not path.is_file():
        raise ModelError(f"{folder}: no config.json")
    config = read_json_object(path)
    if "auto_map" in config:
        raise UnsupportedModelError(f"{path}: auto_map asks for code from the checkpoint to be run; that is refused")
    if config.get("quantization_config") is not None:
        raise UnsupportedModelError(
            f"{path}: the weights are already quantized (quantization_config); take the original checkpoint or a GGUF"
        )
    return config


def _open_shards(folder: Path) -> dict[str, SafetensorsFile]:
    path = folder / INDEX_NAME
    weight_map = read_json_object(path).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise ModelError(f"{path}: weight_map must map tensor names to files")
    shards: dict[str, SafetensorsFile] = {}
    files: dict[str, SafetensorsFile] = {}
    for name, shard in weight_map.items():
        if not _is_plain_name(shard):
            raise ModelError(f"{path}: {shard!r:.120} is not a plain file name ending in .safetensors")
        if shard not in shards:
            if not (folder / shard).is_file():
                raise ModelError(f"{folder}: the shard {shard!r:.120} is missing; {INDEX_NAME} names it")
            shards[shard] = SafetensorsFile(folder / shard)
        if name not in shards[shard].names():
            raise ModelError(f"{shards[shard].path}: tensor {name!r:.120} is missing; {INDEX_NAME} puts it there")
        files[name] = shards[shard]
    return files


def _is_plain_name(name: Any) -> bool:
    """Whether it names a file right in the folder on every system: no separator, drive, NUL or dots alone."""
    return isinstance(name, str) and name.endswith(".safetensors") and not set(name) & set("/\\:\0")


def no_weights(folder: Path) -> ModelError:
    """The error for a folder without safetensors: says what is there, and why pickled weights are not taken."""
    names = sorted(path.name for path in folder.iterdir())
    if any(name.endswith(PICKLE_SUFFIXES) for name in names):
        return UnsupportedModelError(
            f"{folder}: pickle checkpoints ({', '.join(PICKLE_SUFFIXES)}) are refused, because loading one can run "
            f"code; safetensors is needed"
        )
    shown = ", ".join(names[:8]) or "nothing"
    return ModelError(f"{folder}: neither {WEIGHTS_NAME} nor {INDEX_NAME}; found {shown}")
