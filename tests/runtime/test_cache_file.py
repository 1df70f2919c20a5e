"""Saved KV caches: what was written is read back to the bit, and nothing else is taken."""

from __future__ import annotations

import dataclasses
import json
import os
import struct
import zlib

import numpy as np
import pytest

from edgelm.bundle.bundle import open_bundle
from edgelm.errors import CacheFileError, MemoryLimitError, StorageError
from edgelm.runtime.cache_file import MAGIC, open_cache, write_cache
from edgelm.runtime.saved_caches import load_cache, save_cache
from edgelm.runtime.sequences import SequencePool
from edgelm.runtime.sliding import PastWindow, SlidingWindow

CONTEXT = 600
IDS = np.random.default_rng(0).integers(3, 30, 37)


@pytest.fixture(scope="module")
def bundle(folder):
    return open_bundle(folder)


@pytest.fixture(scope="module")
def manifest(bundle):
    return bundle.manifest


@pytest.fixture(scope="module")
def saved(tmp_path_factory, manifest, session, new_decoder):
    """The bytes of a sound file."""
    decoder = new_decoder()
    decoder.prefill(IDS)
    path = tmp_path_factory.mktemp("saved") / "a.kv"
    write_cache(path, manifest, decoder.cache, IDS)
    return path.read_bytes()


@pytest.fixture
def pool(new_decoder):
    pool = SequencePool(new_decoder, keep=2)
    yield pool
    pool.close()


def take(path, manifest, new_decoder, *, context=CONTEXT):
    decoder = new_decoder()
    with open_cache(path, manifest, SlidingWindow(context)) as file:
        decoder.reserve(file.header.held)
        file.read_into(decoder.cache)
    return decoder


def header_of(data):
    length = struct.unpack_from("<8sII", data)[2]
    return json.loads(data[16 : 16 + length]), data[16 + length : -4]


def forged(header, content, *, version=1):
    """A file with a checksum that holds."""
    text = json.dumps(header).encode() if isinstance(header, dict) else header
    data = struct.pack("<8sII", MAGIC, version, len(text)) + text + content
    return data + struct.pack("<I", zlib.crc32(data))


def test_what_was_saved_goes_on_as_if_it_had_stayed(tmp_path, saved, manifest, new_decoder):
    path = tmp_path / "a.kv"
    path.write_bytes(saved)
    stayed = new_decoder()
    stayed.prefill(IDS)
    back = take(path, manifest, new_decoder)
    assert back.length == len(IDS)
    for token in (5, 9, 11):
        assert np.array_equal(back.step(token), stayed.step(token))


def test_a_pool_saves_and_loads(tmp_path, pool, manifest, new_decoder):
    path = tmp_path / "deep" / "er" / "a.kv"
    assert save_cache(pool, path, manifest, IDS) == len(IDS)
    assert [p.name for p in path.parent.iterdir()] == ["a.kv"], "nothing is left beside it"
    other = SequencePool(new_decoder, keep=1)
    assert load_cache(other, path, manifest, CONTEXT) == len(IDS)
    longer = np.concatenate([IDS, [4, 5]])
    lent = other.borrow(longer, 50)
    assert lent.cached == len(IDS)
    np.testing.assert_allclose(lent.decoder.prefill(longer[lent.cached :]), new_decoder().prefill(longer), atol=1e-4)


def test_of_a_longer_cache_only_what_was_asked_for_is_saved(tmp_path, pool, manifest):
    save_cache(pool, tmp_path / "whole", manifest, IDS)
    save_cache(pool, tmp_path / "part", manifest, IDS[:20])
    assert save_cache(pool, tmp_path / "last", manifest, None) == len(IDS), "the cache itself stays whole"
    assert (tmp_path / "last").read_bytes() == (tmp_path / "whole").read_bytes()
    other = SequencePool(pool.new)
    assert load_cache(other, tmp_path / "part", manifest, CONTEXT) == 20


def test_nothing_can_be_saved_of_nothing(tmp_path, pool, manifest):
    with pytest.raises(CacheFileError, match="there is no KV cache to save"):
        save_cache(pool, tmp_path / "a", manifest, None)
    assert not list(tmp_path.iterdir())


def test_a_window_that_slid_is_saved_with_its_gap(tmp_path, bundle, new_decoder):
    window = SlidingWindow(40)
    decoder = new_decoder(context_length=40)
    past = PastWindow(bundle, 40)
    ids = np.random.default_rng(1).integers(3, 30, 100)
    past.over(decoder, limit=200).prefill(ids)
    path = tmp_path / "a.kv"
    write_cache(path, bundle.manifest, decoder.cache, ids)
    back = take(path, bundle.manifest, new_decoder, context=40)
    assert (back.length, back.cache.dropped) == (decoder.length, window.dropped_at(100))
    assert np.array_equal(back.step(5), decoder.step(5))
    with pytest.raises(CacheFileError, match="another context window than this one of 48 tokens"):
        take(path, bundle.manifest, new_decoder, context=48)


@pytest.mark.skipif(os.name != "posix", reason="modes are POSIX's")
def test_what_was_said_is_for_the_owner_alone(tmp_path, pool, manifest):
    path = tmp_path / "a.kv"
    save_cache(pool, path, manifest, IDS)
    assert path.stat().st_mode & 0o777 == 0o600
    path.chmod(0o640)
    save_cache(pool, path, manifest, IDS)
    assert path.stat().st_mode & 0o777 == 0o640, "unless the owner said otherwise"


def test_what_is_too_long_to_be_read_back_is_not_written(tmp_path, pool, manifest, monkeypatch):
    monkeypatch.setattr("edgelm.runtime.cache_file.MAX_TOKENS", len(IDS) - 1)
    with pytest.raises(CacheFileError, match="cannot hold a sequence of 37 tokens: 36 are allowed"):
        save_cache(pool, tmp_path / "a.kv", manifest, IDS)
    assert not list(tmp_path.iterdir())


def test_memory_is_asked_for_before_anything_is_read(tmp_path, saved, manifest, new_decoder):
    def refuse(needs):
        if needs.tokens > 20:
            raise MemoryLimitError(f"{needs.tokens} tokens are too many")

    path = tmp_path / "a.kv"
    header, content = header_of(saved)
    path.write_bytes(forged(header, struct.pack("<i", -1) + content[4:]))  # would be refused as no token
    with pytest.raises(MemoryLimitError, match="37 tokens are too many"):
        load_cache(SequencePool(new_decoder, check=refuse), path, manifest, CONTEXT)


def test_a_folder_that_cannot_be_written_is_a_storage_error(tmp_path, pool, manifest):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises((StorageError, OSError)):
        save_cache(pool, tmp_path / "file" / "a.kv", manifest, IDS)


# What is not taken


@pytest.mark.parametrize("size", [0, 1, 8, 15, 16, 30, 400, -1, -4, -5, -1000])
def test_a_file_that_was_cut(tmp_path, saved, manifest, new_decoder, size):
    path = tmp_path / "a.kv"
    path.write_bytes(saved[:size])
    with pytest.raises(CacheFileError, match=r"a\.kv"):
        take(path, manifest, new_decoder)


def test_a_file_that_was_added_to(tmp_path, saved, manifest, new_decoder):
    path = tmp_path / "a.kv"
    path.write_bytes(saved + b"\0")
    with pytest.raises(CacheFileError, match="it was cut or added to"):
        take(path, manifest, new_decoder)


@pytest.mark.parametrize("place", [0, 8, 12, 17, 60, -5, -1])
def test_any_altered_byte_is_found(tmp_path, saved, manifest, new_decoder, place):
    data = bytearray(saved)
    data[place] ^= 1
    path = tmp_path / "a.kv"
    path.write_bytes(data)
    with pytest.raises(CacheFileError):
        take(path, manifest, new_decoder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": "0" * 64}, "was saved of another model, 'tiny'"),
        ({"dtype": "float16"}, "tensors of other shapes"),
        ({"kv_heads": 1 << 40}, "tensors of other shapes"),
        ({"head_size": -16}, "tensors of other shapes"),
        ({"tensors": []}, "tensors of other shapes"),
        ({"tensors": [0, 1, 2, 3]}, "a header of another form"),
        ({"tensors": ["past_key_values.0.key"] * 4}, "other tensors than the model"),
        ({"tokens": 1 << 22}, "holds 4194304 tokens; the context window is 600"),
        ({"tokens": 1 << 62}, "has 4611686018427387904 tokens, which must be from 1 to 4194304"),
        ({"tokens": 9 * 10**4299}, r"has 90{79} tokens, which must be from 1 to"),
        ({"tokens": 0}, "has 0 tokens"),
        ({"tokens": -1}, "has -1 tokens"),
        ({"tokens": True}, "a header of another form"),
        ({"tokens": 37.0}, "a header of another form"),
        ({"tokens": 38}, "it was cut or added to"),
        ({"dropped": -1}, "of which -1 are dropped"),
        ({"dropped": 30}, "saved with another context window"),
        ({"dropped": 9 * 10**4299}, r"has 37 tokens, of which 90{79} are dropped"),
        ({"tokens": 1 << 22, "dropped": SlidingWindow(CONTEXT).dropped_at(1 << 22)}, "it was cut or added to"),
        ({"tokens": 1 << 23, "dropped": SlidingWindow(CONTEXT).dropped_at(1 << 23)}, "has 8388608 tokens, which must"),
        ({"more": 1}, "a header of another form"),
    ],
)
def test_a_hostile_header(tmp_path, saved, manifest, new_decoder, change, message):
    header, content = header_of(saved)
    path = tmp_path / "a.kv"
    path.write_bytes(forged(header | change, content))
    with pytest.raises(CacheFileError, match=message):
        take(path, manifest, new_decoder)


@pytest.mark.parametrize("text", [b"", b"[]", b"{", b'{"tokens": NaN}', b"[" * 60_000, b"\xff"])
def test_a_header_that_is_no_object(tmp_path, saved, manifest, new_decoder, text):
    path = tmp_path / "a.kv"
    path.write_bytes(forged(text, header_of(saved)[1]))
    with pytest.raises(CacheFileError):
        take(path, manifest, new_decoder)


def test_a_version_of_the_future(tmp_path, saved, manifest, new_decoder):
    path = tmp_path / "a.kv"
    path.write_bytes(forged(*header_of(saved), version=2))
    with pytest.raises(CacheFileError, match="has version 2; this EdgeLM reads 1"):
        take(path, manifest, new_decoder)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_are_no_numbers(tmp_path, saved, manifest, new_decoder, value):
    header, content = header_of(saved)
    content = bytearray(content)
    struct.pack_into("<f", content, len(content) - 400, value)
    path = tmp_path / "a.kv"
    path.write_bytes(forged(header, bytes(content)))
    with pytest.raises(CacheFileError, match="that are no numbers"):
        take(path, manifest, new_decoder)


@pytest.mark.parametrize("token", [-1, 1000, -(2**31)])
def test_tokens_that_the_model_does_not_know(tmp_path, saved, manifest, new_decoder, token):
    header, content = header_of(saved)
    path = tmp_path / "a.kv"
    path.write_bytes(forged(header, struct.pack("<i", token) + content[4:]))
    with pytest.raises(CacheFileError, match="tokens that are not from 0 to"):
        take(path, manifest, new_decoder)


def test_another_model_of_the_same_shape(tmp_path, saved, manifest, new_decoder):
    path = tmp_path / "a.kv"
    path.write_bytes(saved)
    other = dataclasses.replace(manifest, quantization={"scheme": "int8"})
    with pytest.raises(CacheFileError, match="another model, 'tiny', or another conversion of it"):
        take(path, other, new_decoder)


def test_a_failed_load_leaves_the_pool_as_it_was(tmp_path, saved, pool, manifest):
    save_cache(pool, tmp_path / "sound", manifest, IDS)
    data = bytearray(saved)
    data[-300] ^= 1
    (tmp_path / "broken").write_bytes(data)
    with pytest.raises(CacheFileError, match="its checksum is another"):
        load_cache(pool, tmp_path / "broken", manifest, CONTEXT)
    assert pool.borrow(np.concatenate([IDS, [4]]), 40).cached == len(IDS)


@pytest.mark.parametrize("kind", ["missing", "folder", "pipe", "nul"])
def test_what_is_no_file(tmp_path, manifest, kind):
    path = tmp_path / ("a\0b" if kind == "nul" else "a.kv")
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    with pytest.raises(CacheFileError), open_cache(path, manifest, SlidingWindow(CONTEXT)):
        pass
