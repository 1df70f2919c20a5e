"""Saves the KV cache of one sequence, and takes it back: nothing in the file is believed, nothing of it is run.

Layout, little-endian: magic (8 bytes), version (u32), length of the header (u32), header (JSON), token ids (i32), then
tensor by tensor keys and values (kv_heads, tokens, head_size) of the type that the header names, then the CRC-32 of
all before it (u32).
"""

from __future__ import annotations

import io
import json
import os
import stat
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np

from edgelm.bundle.manifest import KVGeometry, Manifest
from edgelm.bundle.manifest_parts import KV_DTYPE_BYTES
from edgelm.bundle.publish import writing_named
from edgelm.bundle.strict_json import load_json
from edgelm.checks import shown
from edgelm.config import KVCacheType
from edgelm.errors import CacheFileError, ManifestError
from edgelm.runtime.kv_cache import KVCache
from edgelm.runtime.sequence_decoder import Ids
from edgelm.runtime.sliding import SlidingWindow

MAGIC = b"EDGELMKV"
VERSION = 1
MAX_HEADER_BYTES = 1 << 16
# Ids stay in memory, of dropped tokens too: what a prompt continues is found out by them.
MAX_TOKENS = 1 << 22
DTYPES: dict[KVCacheType, str] = {"f32": "float32", "int8": "int8"}
_START = struct.Struct("<8sII")
_CHECKSUM = struct.Struct("<I")


@dataclass(frozen=True, slots=True)
class CacheHeader:
    """What a file holds.

    Attributes:
        model: SHA-256 of the model's manifest, which names its files by theirs.
        name: of the model, for people.
        dtype: of the tensors: one of ``DTYPES``.
        kv_heads, head_size: their sizes.
        tensors: the names of their inputs, in order.
        tokens: of the sequence.
        dropped: of these, how many the cache holds no more.
    """

    model: str
    name: str
    dtype: str
    kv_heads: int
    head_size: int
    tensors: tuple[str, ...]
    tokens: int
    dropped: int

    @classmethod
    def of(cls, manifest: Manifest, cache: KVCache, tokens: int) -> Self:
        """The header for the first ``tokens`` of a model's cache."""
        kv = _geometry(manifest)
        names = tuple(name for name, _ in cache.arrays())
        identity = model_identity(manifest)
        dtype = DTYPES[cache.kind]
        return cls(identity, manifest.name, dtype, kv.kv_heads, kv.head_size, names, tokens, cache.dropped)

    @property
    def held(self) -> int:
        """Tokens that each tensor has."""
        return self.tokens - self.dropped

    @property
    def content_bytes(self) -> int:
        """Bytes of ids and tensors."""
        values = len(self.tensors) * self.kv_heads * self.held * self.head_size
        return 4 * self.tokens + KV_DTYPE_BYTES[self.dtype] * values


def model_identity(manifest: Manifest) -> str:
    """SHA-256 of a manifest, and so of all files that it lists."""
    import hashlib

    return hashlib.sha256(manifest.to_json()).hexdigest()


def write_cache(path: Path, manifest: Manifest, cache: KVCache, ids: Ids) -> None:
    """Writes the part of a cache that belongs to ``ids``, (T,); the file is whole or stays what it was.

    Raises:
        CacheFileError: the sequence has more than ``MAX_TOKENS`` tokens.
        StorageError: the disk is full, read-only or failing.
    """
    if len(ids) > MAX_TOKENS:
        raise CacheFileError(f"{path} cannot hold a sequence of {len(ids)} tokens: {MAX_TOKENS} are allowed")
    header = CacheHeader.of(manifest, cache, len(ids))
    text = json.dumps(asdict(header), sort_keys=True).encode()
    with writing_named(path, mode=0o600) as file:  # it holds what was said
        checksum = 0
        for part in (_START.pack(MAGIC, VERSION, len(text)), text, ids.astype("<i4").tobytes()):
            checksum = zlib.crc32(part, checksum)
            file.write(part)
        for _, array in cache.buffers(header.held):
            for head in array[0]:
                values = np.ascontiguousarray(head, _stored(header.dtype)).data
                checksum = zlib.crc32(values, checksum)
                file.write(values)
        file.write(_CHECKSUM.pack(checksum))


class CacheFile:
    """An open file whose header was found to fit a model, and its size the header; see ``open_cache``.

    Attributes:
        header: what it holds.
    """

    def __init__(
        self, file: io.BufferedReader, path: Path, manifest: Manifest, window: SlidingWindow, kind: KVCacheType
    ) -> None:
        self._file, self._path, self._vocab_size = file, path, manifest.vocab_size
        self._checksum = 0
        start = self._read(min(_START.size, os.fstat(file.fileno()).st_size))
        if len(start) < _START.size or not start.startswith(MAGIC):
            raise self._fault("is no saved KV cache")
        _, version, length = _START.unpack(start)
        if version != VERSION:
            raise self._fault(f"has version {version}; this EdgeLM reads {VERSION}")
        if length > MAX_HEADER_BYTES:
            raise self._fault(f"has a header of {length} bytes, more than the {MAX_HEADER_BYTES} allowed")
        self.header = self._header(self._read(length))
        self._check(manifest, window, kind)
        whole = _START.size + length + self.header.content_bytes + _CHECKSUM.size
        size = os.fstat(file.fileno()).st_size
        if size != whole:
            raise self._fault(f"has {size} bytes, not {whole}: it was cut or added to")

    def read_into(self, cache: KVCache) -> Ids:
        """Fills an empty cache, which must have room for what the file holds; returns the sequence, (T,) int64.

        Raises:
            CacheFileError: a token or a tensor is another than the model's, or holds what are no numbers; or bytes
                were altered.
        """
        ids = self._ids()
        held = self.header.held
        buffers = dict(cache.buffers(held))
        if tuple(buffers) != self.header.tensors:
            raise self._fault("has other tensors than the model")
        for name, array in buffers.items():
            if array.shape[1::2] != (self.header.kv_heads, self.header.head_size):
                raise self._fault(f"has {name} in another shape than the model")
            for head in array[0]:
                head[:] = np.frombuffer(self._read(head.nbytes), _stored(self.header.dtype)).reshape(head.shape)
                if not np.isfinite(head).all():
                    raise self._fault(f"has values in {name} that are no numbers")
        expected = self._checksum
        if _CHECKSUM.unpack(self._read(_CHECKSUM.size)) != (expected,):
            raise self._fault("was altered: its checksum is another")
        cache.restore(held, self.header.dropped, SlidingWindow.sinks)
        return ids

    def _ids(self) -> Ids:
        ids: Ids = np.frombuffer(self._read(4 * self.header.tokens), "<i4").astype(np.int64)
        if ids.min() < 0 or ids.max() >= self._vocab_size:
            raise self._fault(f"has tokens that are not from 0 to {self._vocab_size - 1}")
        return ids

    def _header(self, data: bytes) -> CacheHeader:
        try:
            values = load_json(data, what=str(self._path), limit=MAX_HEADER_BYTES)
        except ManifestError as error:
            raise CacheFileError(str(error)) from None
        kinds: dict[str, type] = dict.fromkeys(("model", "name", "dtype"), str)
        kinds |= dict.fromkeys(("kv_heads", "head_size", "tokens", "dropped"), int) | {"tensors": list}
        if not isinstance(values, dict) or {name: type(value) for name, value in values.items()} != kinds:
            raise self._fault("has a header of another form")
        if not all(isinstance(name, str) for name in values["tensors"]):
            raise self._fault("has a header of another form")
        return CacheHeader(**{**values, "tensors": tuple(values["tensors"])})

    def _check(self, manifest: Manifest, window: SlidingWindow, kind: KVCacheType) -> None:
        """The header against the model, before anything is believed of sizes."""
        header, kv = self.header, _geometry(manifest)
        if header.model != model_identity(manifest):
            raise self._fault(f"was saved of another model, {header.name[:80]!a}, or another conversion of it")
        other = next((name for name, dtype in DTYPES.items() if dtype == header.dtype and name != kind), None)
        if other is not None:
            raise self._fault(f"holds a KV cache of type {other}, but the model is loaded with one of type {kind}")
        known = (header.dtype, header.kv_heads, header.head_size, len(header.tensors))
        if known != (DTYPES[kind], kv.kv_heads, kv.head_size, 2 * kv.layers):
            raise self._fault("has tensors of other shapes than the model's")
        if not 1 <= header.tokens <= MAX_TOKENS:
            raise self._fault(f"has {shown(header.tokens)} tokens, which must be from 1 to {MAX_TOKENS}")
        if not 0 <= header.dropped < header.tokens:
            raise self._fault(f"has {header.tokens} tokens, of which {shown(header.dropped)} are dropped")
        if header.dropped:
            if header.dropped != window.dropped_at(header.tokens):
                raise self._fault(f"was saved with another context window than this one of {window.size} tokens")
        elif header.tokens > window.size:
            raise self._fault(f"holds {header.tokens} tokens; the context window is {window.size}")

    def _read(self, count: int) -> bytes:
        data = self._file.read(count)
        if len(data) < count:
            raise self._fault("ends too early")
        self._checksum = zlib.crc32(data, self._checksum)
        return data

    def _fault(self, what: str) -> CacheFileError:
        return CacheFileError(f"{self._path} {what}")


def is_saved_cache(path: Path) -> bool:
    """Whether a file begins as one of these, of whatever model and version."""
    try:
        with open(path, "rb", opener=_open_regular) as file:
            return file.read(len(MAGIC)) == MAGIC
    except OSError:
        return False


@contextmanager
def open_cache(path: Path, manifest: Manifest, window: SlidingWindow, kind: KVCacheType = "f32") -> Iterator[CacheFile]:
    """Opens a saved cache.

    Args:
        path: a regular file.
        manifest: of the model that it must have been saved of.
        window: the context window.
        kind: of the cache that it is to fill.

    Raises:
        CacheFileError: it cannot be read, or is no saved cache, or not one of this model; says what is wrong.
    """
    try:
        file = open(path, "rb", opener=_open_regular)  # noqa: SIM115, closed below
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise CacheFileError(f"{path}: {getattr(error, 'strerror', None) or error}") from error
    with file:
        yield CacheFile(file, path, manifest, window, kind)


def _open_regular(path: str, flags: int) -> int:
    descriptor = os.open(path, flags | getattr(os, "O_NONBLOCK", 0))  # a pipe would wait for a writer
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(0, "is not a regular file", path)
    return descriptor


def _stored(dtype: str) -> np.dtype[Any]:
    return np.dtype(dtype).newbyteorder("<")


def _geometry(manifest: Manifest) -> KVGeometry:
    if manifest.kv is None:
        raise CacheFileError(f"{manifest.name} has no KV cache")
    return manifest.kv
