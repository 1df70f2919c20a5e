"""Saves what a pool keeps of a sequence, and gives a pool what was saved, within its memory limit."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from edgelm.bundle.manifest import Manifest
from edgelm.config import KVCacheType
from edgelm.errors import CacheFileError, UnsupportedModelError
from edgelm.runtime.cache_file import open_cache, write_cache
from edgelm.runtime.kv_cache import KVCache
from edgelm.runtime.sequence_decoder import Ids
from edgelm.runtime.sequences import LentDecoder, SequencePool
from edgelm.runtime.sliding import SlidingWindow


def save_cache(pool: SequencePool, path: Path, manifest: Manifest, ids: Ids | None) -> int:
    """Writes the cache of a sequence to a file, computing it first where nothing is kept of it.

    Args:
        pool: of the model.
        path: replaced if it exists.
        manifest: of the model.
        ids: (T,) the sequence; None: the one used last, prompt and answer.

    Returns:
        How many tokens it holds.

    Raises:
        CacheFileError: nothing is kept, and no sequence was given; or it is too long for a file.
        UnsupportedModelError: graphs of other tools keep their caches to themselves.
        StorageError: the disk is full, read-only or failing.
        MemoryLimitError, ClosedError: while the sequence was to be computed.
    """
    found = pool.borrow_kept(ids)
    if found is not None:
        lent, held = found
    elif ids is None:
        raise CacheFileError("there is no KV cache to save: nothing was computed yet, or memory was short")
    else:
        lent, held = _computed(pool, ids), ids
    try:
        write_cache(path, manifest, _cache_of(lent, manifest), held if ids is None else ids)
    finally:
        pool.give_back(lent, held)
    return len(held if ids is None else ids)


def save_kept(pool: SequencePool, path: Path, manifest: Manifest, ids: Ids) -> int:
    """Writes what is kept of the beginning of a sequence to a file, computing nothing; returns how many tokens.

    Raises:
        CacheFileError: nothing is kept of it, or too much for a file; none is written then.
        Others: see ``save_cache``.
    """
    found = pool.borrow_longest(ids)
    if found is None:
        raise CacheFileError("there is no KV cache to save: nothing is kept of this conversation")
    lent, held, length = found
    try:
        write_cache(path, manifest, _cache_of(lent, manifest), held[:length])
    finally:
        pool.give_back(lent, held)
    return length


def load_cache(
    pool: SequencePool, path: Path, manifest: Manifest, context_length: int, kind: KVCacheType = "f32"
) -> int:
    """Has a pool keep what a file holds, as if it had just been computed; returns how many tokens that is.

    ``kind``: the type of the pool's caches.

    Raises:
        CacheFileError: the file cannot be read, is broken, or was saved of another model; nothing has changed then.
        UnsupportedModelError: graphs of other tools keep their caches to themselves.
        MemoryLimitError: it does not fit.
        ClosedError: the model is closed.
    """
    with open_cache(path, manifest, SlidingWindow(context_length), kind) as file:
        lent = pool.borrow(np.empty(0, np.int64), file.header.held)
        try:
            cache = _cache_of(lent, manifest)
            lent.decoder.reserve(file.header.held)
            ids = file.read_into(cache)
        except BaseException:
            pool.discard(lent)
            raise
        pool.give_back(lent, ids)
        return len(ids)


def _computed(pool: SequencePool, ids: Ids) -> LentDecoder:
    lent = pool.borrow(ids, len(ids))
    try:
        lent.decoder.reserve(len(ids))
        lent.decoder.prefill(ids[lent.cached :])
    except BaseException:
        pool.discard(lent)
        raise
    return lent


def _cache_of(lent: LentDecoder, manifest: Manifest) -> KVCache:
    if not isinstance(lent.decoder.cache, KVCache):
        raise UnsupportedModelError(f"{manifest.name}: the KV caches of graphs of other tools cannot be saved")
    return lent.decoder.cache
