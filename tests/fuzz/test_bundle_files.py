"""Fuzzers of what a bundle is read from: its manifest, its graphs, its saved caches' headers."""

from __future__ import annotations

import functools
import json
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from support.bundles import GRAPH_NAME, TinyDecoder, decoder_model, write_decoder_bundle
from support.fuzzing import as_bytes, fuzzed, lawful, mutated, mutated_json

from edgelm.bundle.bundle import open_bundle
from edgelm.bundle.graph_check import FOREIGN_RULES, check_graph, inspect_graph
from edgelm.bundle.manifest import MANIFEST_NAME, FileEntry, Manifest, parse_manifest
from edgelm.bundle.onnx_reader import read_model
from edgelm.errors import CacheFileError, ManifestError, ModelError
from edgelm.runtime.cache_file import MAGIC, open_cache, write_cache
from edgelm.runtime.decoder import Decoder
from edgelm.runtime.session import Session
from edgelm.runtime.sliding import SlidingWindow

_IDS = np.arange(3, 20)


@functools.cache
def folder_of(root: Path) -> Path:
    return write_decoder_bundle(root / "bundle")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return folder_of(tmp_path_factory.getbasetemp())


MODEL = decoder_model(TinyDecoder()).SerializeToString()
BARE = decoder_model(TinyDecoder(hidden=16, ffn=1, learned_positions=True)).SerializeToString()


@fuzzed(150)
@given(st.data())
def test_manifests(folder: Path, data: st.DataObject) -> None:
    sound = (folder / MANIFEST_NAME).read_bytes()
    given_bytes = data.draw(st.one_of(mutated(sound), mutated_json(json.loads(sound)).map(as_bytes)))
    with lawful(ManifestError):
        manifest = parse_manifest(given_bytes)
        assert parse_manifest(manifest.to_json()) == manifest


@fuzzed(150)
@given(mutated(MODEL, BARE))
@example(MODEL)
def test_the_protobuf_walker(data: bytes) -> None:
    with lawful(ModelError):
        model = read_model(data, what="x.onnx")
        assert read_model(data, what="x.onnx") == model


@fuzzed(150)
@given(mutated(MODEL, BARE))
@example(MODEL)
def test_graph_checks(folder: Path, tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    place = tmp_path_factory.getbasetemp() / "graphs"
    place.mkdir(exist_ok=True)
    (place / GRAPH_NAME).write_bytes(data)
    manifest = parse_manifest((folder / MANIFEST_NAME).read_bytes())
    manifest.files[GRAPH_NAME] = FileEntry(len(data), "0" * 64)
    with lawful(ModelError):
        check_graph(place, GRAPH_NAME, manifest)
    with lawful(ModelError):
        inspect_graph(place, GRAPH_NAME, manifest.files, FOREIGN_RULES)


@pytest.fixture(scope="module")
def saved(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Manifest, Session, bytes]:
    bundle = open_bundle(folder)
    session = Session(bundle.path(GRAPH_NAME), threads=1)
    decoder = Decoder(session, context_length=64, prefill_chunk=64)
    decoder.prefill(_IDS)
    path = tmp_path_factory.mktemp("saved") / "a.kv"
    write_cache(path, bundle.manifest, decoder.cache, _IDS)
    return bundle.manifest, session, path.read_bytes()


@fuzzed(100)
@given(st.data())
def test_saved_caches(
    saved: tuple[Manifest, Session, bytes], tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    manifest, session, sound = saved
    length = struct.unpack_from("<8sII", sound)[2]
    header, content = json.loads(sound[16 : 16 + length]), sound[16 + length : -4]
    forged = data.draw(
        st.one_of(
            mutated(sound),
            st.builds(_sealed, mutated_json(header).map(as_bytes), st.just(content)),
            st.builds(_sealed, st.just(as_bytes(header)), mutated(content)),
        )
    )
    path = tmp_path_factory.getbasetemp() / "forged.kv"
    path.write_bytes(forged)
    decoder = Decoder(session, context_length=64, prefill_chunk=64)
    with lawful(CacheFileError), open_cache(path, manifest, SlidingWindow(64)) as file:
        decoder.reserve(file.header.held)
        file.read_into(decoder.cache)


def _sealed(header: bytes, content: Any) -> bytes:
    """A file whose checksum holds."""
    data = struct.pack("<8sII", MAGIC, 1, len(header)) + header + content
    return data + struct.pack("<I", zlib.crc32(data))
