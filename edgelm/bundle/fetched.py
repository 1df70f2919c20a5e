"""What a fetch ends with, and the check of its hash."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from edgelm.errors import IntegrityError


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetched:
    """A checkpoint on this machine, pinned.

    Attributes:
        path: the file, or the folder of the snapshot.
        uri: where it came from, without the revision.
        revision: the hub's commit, or the package's version; None for a local path.
        sha256: the hash of a single file, in hexadecimal digits, or of a package's folder (``files.sha256_of_folder``);
            None for other folders.
    """

    path: Path
    uri: str
    revision: str | None = None
    sha256: str | None = None


def check_sha256(what: str, found: str, pinned: str | None) -> None:
    """Compares a file's hash with the pinned one, if there is one.

    Raises:
        IntegrityError: they differ; names both.
    """
    if pinned is not None and found != pinned.lower():
        raise IntegrityError(f"{what} has the SHA-256 {found}, but {pinned.lower()} is pinned: its content has changed")
