"""Checkpoints in llama.cpp's GGUF format, presented with Hugging Face's names, row orders and configuration."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgelm.bundle.manifest import MAX_HEAD_SIZE
from edgelm.errors import ModelError, UnsupportedModelError
from edgelm_tools.checkpoint.base import BlockQuantized, TextAssets
from edgelm_tools.checkpoint.gguf_config import TOKEN_ROLES, build_config
from edgelm_tools.checkpoint.gguf_file import GGUFFile, StoredTensor
from edgelm_tools.checkpoint.gguf_metadata import Metadata
from edgelm_tools.checkpoint.gguf_names import (
    ROPE_TENSORS,
    SHIFTED_NORM_ARCHITECTURES,
    hugging_face_names,
    permuted_heads,
    undo_permutation,
)
from edgelm_tools.checkpoint.gguf_package import dequantize
from edgelm_tools.checkpoint.gguf_tokenizer import tokenizer_json

_PLAIN_DTYPES = {"F32": "<f4", "F16": "<f2", "F64": "<f8"}
_INTEGER_TYPES = frozenset({"I8", "I16", "I32", "I64"})
_BLOCK = 32
# The sampling settings that GGUF can carry, and their names in generation_config.json.
_SAMPLING = {"temp": "temperature", "top_p": "top_p", "min_p": "min_p", "penalty_repeat": "repetition_penalty"}


class GGUFCheckpoint:
    """An open GGUF file; implements ``Checkpoint``. Memory-mapped, tensors dequantized one at a time.

    ``config`` is described in ``gguf_config.build_config``.

    Raises:
        ModelError: the file is damaged or contradicts itself.
        UnsupportedModelError: an architecture, setting, tensor or type that is not converted; names it.
        MissingDependencyError: the package gguf is not installed.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        self._gguf = GGUFFile(self.path)
        tensors = self._gguf.tensors
        if self._gguf.metadata.integer("split.count", 1) > 1:
            raise UnsupportedModelError(f"{self.path}: one part of several; join them with llama-gguf-split --merge")
        factors = {name: self._rope_factors(name) for name in ROPE_TENSORS if name in tensors}
        self.config: dict[str, Any] = build_config(self._gguf.metadata, tensors, factors)
        self._architecture = self._gguf.metadata.text("general.architecture")
        layers = self.config["num_hidden_layers"]
        self._names = hugging_face_names(tensors, self._architecture, layers, str(self.path))

    def names(self) -> Iterable[str]:
        """Names of all tensors, in Hugging Face's naming."""
        return self._names.keys()

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor.

        Raises:
            ModelError: there is no such tensor.
        """
        return self._find(name)[1].shape

    def tensor(self, name: str) -> NDArray[np.float32]:
        """The tensor as a new float32 array, dequantized, in Hugging Face's row order and convention.

        Raises:
            ModelError: there is no such tensor.
            UnsupportedModelError: its type cannot be dequantized.
        """
        stored_name, stored = self._find(name)
        values = self._in_order(stored_name, self._read(stored))
        if self._architecture in SHIFTED_NORM_ARCHITECTURES and stored_name.endswith("norm.weight"):
            values -= np.float32(1)
        self._gguf.file.forget()
        return values

    def row_parts(self, name: str, most_values: int) -> Iterator[NDArray[np.float32]]:
        """The rows of ``tensor``, some at a time where the file has them in their order.

        Raises:
            ModelError: there is no such tensor.
            UnsupportedModelError: its type cannot be dequantized.
        """
        stored_name, stored = self._find(name)
        if len(stored.shape) != 2 or self._heads_of(stored_name) is not None:
            yield self.tensor(name)
            return
        rows, columns = stored.shape
        row_bytes, step = stored.size // rows, max(1, most_values // columns)
        for first in range(0, rows, step):
            count = min(step, rows - first)
            start = stored.start + first * row_bytes
            values = self._read(replace(stored, shape=(count, columns), start=start, size=count * row_bytes))
            self._gguf.file.forget()
            yield values

    def quantized(self, name: str) -> BlockQuantized | None:
        """The integers of a Q8_0 or Q4_0 matrix, in Hugging Face's row order; None for all other tensors.

        Raises:
            ModelError: there is no such tensor.
        """
        stored_name, stored = self._find(name)
        if stored.type_name not in ("Q8_0", "Q4_0") or len(stored.shape) != 2:
            return None
        rows, columns = stored.shape
        # A block is its scale as float16, then 32 bytes, or 16 with two values each: byte i holds i and i + 16.
        width = _BLOCK if stored.type_name == "Q8_0" else _BLOCK // 2
        layout = np.dtype([("scale", "<f2"), ("values", np.uint8, (width,))])
        blocks = self._gguf.file.array(layout, stored.start, rows * columns // _BLOCK)
        scales = self._in_order(stored_name, blocks["scale"].astype(np.float32).reshape(rows, -1))
        if stored.type_name == "Q8_0":
            values, bits = blocks["values"].view(np.int8), 8
        else:
            packed = blocks["values"]
            values, bits = np.concatenate([packed & 15, packed >> 4], axis=1).view(np.int8) - np.int8(8), 4
        ordered = self._in_order(stored_name, np.array(values).reshape(rows, columns))
        self._gguf.file.forget()
        return BlockQuantized(values=ordered, scales=scales, block_size=_BLOCK, bits=bits)

    def text_assets(self) -> TextAssets:
        """Tokenizer, chat template and generation settings from the metadata.

        Raises:
            UnsupportedModelError: the tokenizer is of a kind that cannot be converted exactly.
            ModelError: the metadata is incomplete or contradicts itself.
        """
        metadata = self._gguf.metadata
        tokens = metadata.strings("tokenizer.ggml.tokens")
        if len(tokens) > self.config["vocab_size"]:
            size = self.config["vocab_size"]
            raise ModelError(f"{self.path}: {len(tokens)} tokens, but the embedding has {size} rows")
        ids = {f"{role}_token": self.config.get(f"{role}_token_id") for role in TOKEN_ROLES}
        for role, token_id in ids.items():
            if token_id is not None and token_id >= len(tokens):
                raise ModelError(f"{self.path}: {role}_id is {token_id}, there are {len(tokens)} tokens")
        template = "tokenizer.chat_template"
        return TextAssets(
            tokenizer=tokenizer_json(metadata),
            chat_template=metadata.text(template) if template in metadata else None,
            generation_config=_generation_config(metadata, self.config),
            special_tokens={role: tokens[token_id] for role, token_id in ids.items() if token_id is not None},
        )

    def close(self) -> None:
        """Unmaps the file."""
        self._gguf.file.close()

    def _find(self, name: str) -> tuple[str, StoredTensor]:
        if name not in self._names:
            raise ModelError(f"{self.path}: no tensor named {name!r:.120}")
        return self._names[name], self._gguf.tensors[self._names[name]]

    def _rope_factors(self, name: str) -> list[float]:
        """Plain numbers, in the shortest decimals of their float32; one for each pair of a head's values at most."""
        stored = self._gguf.tensors[name]
        count, most = math.prod(stored.shape), MAX_HEAD_SIZE // 2
        if count > most:
            raise ModelError(f"{self.path}: {name} has {count} factors; the largest heads take {most}")
        return [float(str(value)) for value in self._read(stored).reshape(-1)]

    def _read(self, stored: StoredTensor) -> NDArray[np.float32]:
        """A new float32 array, as stored."""
        file = self._gguf.file
        if stored.type_name in _INTEGER_TYPES:
            raise UnsupportedModelError(f"{self.path}: a weight of integers ({stored.type_name})")
        if stored.type_name in _PLAIN_DTYPES:
            dtype = np.dtype(_PLAIN_DTYPES[stored.type_name])
            with np.errstate(over="ignore"):  # a float64 beyond float32's range becomes infinity
                plain = file.array(dtype, stored.start, stored.size // dtype.itemsize).astype(np.float32)
            return plain.reshape(stored.shape)
        data = file.array(np.uint8, stored.start, stored.size)
        rows = data.reshape(-1, stored.size * stored.shape[-1] // int(np.prod(stored.shape)))
        return dequantize(rows, stored.type_name).reshape(stored.shape)

    def _in_order(self, stored_name: str, rows: NDArray[Any]) -> NDArray[Any]:
        permuted = self._heads_of(stored_name)
        if permuted is None:
            return rows
        if len(rows) % (2 * permuted):
            raise ModelError(f"{self.path}: tensor {stored_name!r} has {len(rows)} rows for {permuted} heads")
        return undo_permutation(rows, permuted)

    def _heads_of(self, stored_name: str) -> int | None:
        """Into how many heads its rows were permuted; None if they were not."""
        heads, kv_heads = self.config["num_attention_heads"], self.config["num_key_value_heads"]
        return permuted_heads(stored_name, self._architecture, heads, kv_heads)


def _generation_config(metadata: Metadata, config: dict[str, Any]) -> dict[str, Any]:
    settings: dict[str, Any] = {key: config[key] for key in ("bos_token_id", "pad_token_id") if key in config}
    # An answer also ends with the end of a turn or of a message, where the file names such tokens.
    ends = [f"tokenizer.ggml.{name}_token_id" for name in ("eos", "eot", "eom")]
    ids = list(dict.fromkeys(metadata.integer(key) for key in ends if key in metadata))
    if ids:
        settings["eos_token_id"] = ids[0] if len(ids) == 1 else ids
    for stored, name in _SAMPLING.items():
        if (key := f"general.sampling.{stored}") in metadata:
            settings[name] = metadata.real(key)
    if "general.sampling.top_k" in metadata:
        settings["top_k"] = metadata.integer("general.sampling.top_k")
    return settings
