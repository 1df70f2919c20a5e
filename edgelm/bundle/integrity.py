"""Whether a bundle's files are the ones its manifest names: kinds and sizes at every open, hashes when needed.

Hashing hundreds of megabytes at every start would cost more than loading them. So a file whose hash was right is
stamped with its size, modification time and inode, and hashed again only when one of them has changed. The stamps
lie in the user's own cache, never in the bundle: a bundle cannot vouch for itself.
"""

from __future__ import annotations

import binascii
import contextlib
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from edgelm.bundle.manifest import FileEntry, Manifest
from edgelm.bundle.publish import write_file_atomic
from edgelm.bundle.regular_file import open_file, read_file, stat_file
from edgelm.bundle.strict_json import load_json
from edgelm.errors import IntegrityError, ModelError

STAMP_VERSION = 1
MAX_STAMP_BYTES = 4 << 20

# A file changed this short before it was hashed could change again within the same tick of a coarse file system's
# clock (two seconds on FAT) and keep its time: it is hashed, but not stamped.
_TICK_NS = 2_000_000_000

Stamp = dict[str, list[Any]]

_DAMAGED = "the bundle is damaged: fetch or export it again"


def verify_files(
    folder: Path, manifest: Manifest, *, stamps: Path | None, before_hashing: Callable[[Manifest], object] | None = None
) -> None:
    """Checks every file that the manifest lists; files that it does not list are never read.

    Args:
        folder: the bundle.
        manifest: its parsed ``edgelm.json``.
        stamps: where to remember what was hashed; None: hash every time. A folder that cannot be written is no
            error, and what cannot be read there is done again.
        before_hashing: called with the manifest before a file is hashed, which may take long; it may raise.

    Raises:
        IntegrityError: a file is missing, no regular file, or of another size or SHA-256; gives both.
        ModelError: a file cannot be read.
        Others: what ``before_hashing`` does.
    """
    statuses = check_sizes(folder, manifest)
    stamp_file = stamps / f"{_folder_key(folder)}.json" if stamps is not None else None
    known = _read_stamp(stamp_file) if stamp_file is not None else {}
    stamped = {name: _stamp_of(statuses[name], entry) for name, entry in manifest.files.items()}
    fresh: Stamp = {name: stamp for name, stamp in stamped.items() if known.get(name) == stamp}
    if before_hashing is not None and len(fresh) < len(stamped):
        before_hashing(manifest)
    for name, entry in manifest.files.items():
        if name in fresh:
            continue
        started = time.time_ns()
        _check_hash(folder, name, entry)
        if abs(started - statuses[name].st_mtime_ns) > _TICK_NS:
            fresh[name] = stamped[name]
    if stamp_file is not None and fresh != known:
        _write_stamp(stamp_file, fresh)


def check_sizes(folder: Path, manifest: Manifest) -> dict[str, os.stat_result]:
    """What the system says of all files that the manifest lists, whose sizes are right.

    Raises:
        IntegrityError: a file is missing, no regular file, or of another size; gives both sizes.
    """
    return {name: check_size(folder, name, entry) for name, entry in manifest.files.items()}


def check_size(folder: Path, name: str, entry: FileEntry) -> os.stat_result:
    """The same of one file."""
    try:
        status = stat_file(folder, name)
    except IntegrityError as error:
        raise IntegrityError(f"{error}; {_DAMAGED}") from None
    if status.st_size != entry.size:
        raise IntegrityError(
            f"{name} in {folder} has {status.st_size} bytes, not the {entry.size} of the manifest; {_DAMAGED}"
        )
    return status


def _check_hash(folder: Path, name: str, entry: FileEntry) -> None:
    import hashlib  # brings in a crypto library: a few megabytes that most starts do not need

    with open_file(folder, name) as file:
        try:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise ModelError(f"{name} in {folder} cannot be read: {error.strerror or error}") from error
    if digest != entry.sha256:
        raise IntegrityError(
            f"{name} in {folder} has SHA-256 {digest[:12]}…, not the {entry.sha256[:12]}… of the manifest; {_DAMAGED}"
        )


def _stamp_of(status: os.stat_result, entry: FileEntry) -> list[Any]:
    return [status.st_size, status.st_mtime_ns, status.st_ino, entry.sha256]


def _folder_key(folder: Path) -> str:
    """A short name for a path; should two share it, their inodes differ, and both are only hashed more often."""
    return f"{binascii.crc32(os.fsencode(folder.resolve())):08x}"


def _read_stamp(path: Path) -> Stamp:
    """The stamp as written, or an empty one where there is none that can be read."""
    try:
        document = load_json(
            read_file(path.parent, path.name, limit=MAX_STAMP_BYTES), what=path.name, limit=MAX_STAMP_BYTES
        )
    except ModelError:
        return {}
    if not isinstance(document, dict) or document.get("version") != STAMP_VERSION:
        return {}
    files = document.get("files")
    return files if isinstance(files, dict) else {}


def _write_stamp(path: Path, stamp: Stamp) -> None:
    data = json.dumps({"version": STAMP_VERSION, "files": stamp}).encode()
    # A cache: without it the next open hashes again, which is slower but right.
    with contextlib.suppress(OSError):
        write_file_atomic(path, data)
