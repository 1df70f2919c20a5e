"""Which bundles were made or opened here before, so that nobody needs to try again whether opening them ends well.

What is remembered is the whole manifest, which holds the hash of every file: another bundle is never taken for it. It
lies in the user's own cache, never in the bundle, and for the rest of the process in memory, too.
"""

from __future__ import annotations

import binascii
import contextlib
import os
from pathlib import Path

from edgelm.bundle.manifest import MAX_MANIFEST_BYTES, Manifest
from edgelm.bundle.publish import write_file_atomic
from edgelm.bundle.regular_file import read_file
from edgelm.errors import ModelError

_HERE: set[bytes] = set()
# Twice what a manifest may have as it lies in its bundle, for one that is written out with all fields.
_MAX_RECORD_BYTES = 2 * MAX_MANIFEST_BYTES


def is_known(folder: Path, manifest: Manifest, *, stamps: Path | None) -> bool:
    """Whether a bundle was made or opened here before.

    Args:
        folder: where it is.
        manifest: its manifest; of a folder of another tool, what it would say.
        stamps: where that is remembered; None: in this process only.
    """
    record = _record(folder, manifest)
    if record in _HERE:
        return True
    if stamps is None:
        return False
    try:
        return read_file(stamps, _name(record), limit=_MAX_RECORD_BYTES) == record
    except ModelError:
        return False


def remember(folder: Path, manifest: Manifest, *, stamps: Path | None) -> None:
    """Remembers that a bundle was made or opened here; for the arguments see ``is_known``.

    A folder that cannot be written is no error: it is remembered for the rest of the process.
    """
    record = _record(folder, manifest)
    _HERE.add(record)
    if stamps is not None:
        with contextlib.suppress(OSError):
            write_file_atomic(stamps / _name(record), record)


def _record(folder: Path, manifest: Manifest) -> bytes:
    """What is known of a bundle: its manifest, and where that has no hashes its place and its files as they are."""
    parts = [manifest.to_json()]
    if not all(entry.sha256 for entry in manifest.files.values()):
        parts.append(os.fsencode(folder.resolve()))
        parts += [_status(folder / name) for name in sorted(manifest.files)]
    return b"\n".join(parts)


def _status(path: Path) -> bytes:
    try:
        status = path.stat()
    except OSError:
        return b"gone"
    return f"{status.st_size} {status.st_mtime_ns} {status.st_ino}".encode()


def _name(record: bytes) -> str:
    """A short name; should two bundles share it, both are only tried more often."""
    return f"opened-{binascii.crc32(record):08x}"
