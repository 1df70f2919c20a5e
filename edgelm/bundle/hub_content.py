"""What is in the hub's cache: how much is still to come, and whether it is what the hub lists, by its hashes.

Its client library compares sizes only. The cache has REPOSITORY/snapshots/COMMIT, with links to REPOSITORY/blobs.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from edgelm.bundle.files import CHUNK_BYTES, remove_tree, sha256_of, storage_error, tree_size
from edgelm.bundle.progress import Progress, transfer
from edgelm.errors import IntegrityError

_SHA256 = re.compile(r"[0-9a-f]{64}")
_SHA1 = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True, slots=True)
class ListedFile:
    """What the hub says of a file.

    Attributes:
        size: bytes; None: it does not say.
        sha256: of a large file's content.
        git_hash: of a small file, as git computes it: SHA-1 of a header and the content.
    """

    size: int | None = None
    sha256: str | None = None
    git_hash: str | None = None


def bytes_to_come(repository: Path, commit: str, files: Mapping[str, ListedFile]) -> int:
    """Bytes of the files that the cache does not have, in this revision or another; less what has begun to come."""
    blobs, snapshot = repository / "blobs", repository / "snapshots" / commit
    contents = {file.sha256 or file.git_hash or name: (name, file.size or 0) for name, file in files.items()}
    missing = [
        size
        for blob, (name, size) in contents.items()
        if not (blobs / blob).is_file() and not (snapshot / name).is_file()
    ]
    return max(sum(missing) - tree_size(blobs, ".incomplete"), 0)


def check_content(snapshot: Path, files: Mapping[str, ListedFile], uri: str, progress: Progress) -> None:
    """Hashes all files of a snapshot that are listed with a hash; one that is another is removed from the hub's cache.

    Raises:
        IntegrityError: one is; names it and both hashes.
        StorageError: one cannot be read.
    """
    repository = snapshot.parents[1].resolve()
    present = {snapshot / name: listed for name, listed in files.items() if (snapshot / name).is_file()}
    with transfer(progress, "checking what came", sum(listed.size or 0 for listed in present.values())):
        for path, listed in present.items():
            try:
                _check_file(path, listed, f"{path.relative_to(snapshot)} of {uri}", repository)
            except OSError as error:
                raise storage_error(error, path) from error
            progress.advance(listed.size or 0)


def check_cached(snapshot: Path, names: Iterable[str], uri: str, progress: Progress) -> None:
    """The same without asking the hub: in its cache, files are links to blobs, whose names are the hashes it listed.

    On a file system without links they are not: such files, and blobs with names of another kind, are left unchecked.
    """
    try:
        files = {name: _listed_by_blob(snapshot / name) for name in names}
    except OSError as error:
        raise storage_error(error, snapshot) from error
    check_content(snapshot, files, uri, progress)


def _listed_by_blob(path: Path) -> ListedFile:
    size, blob = path.stat().st_size, path.readlink().name if path.is_symlink() else ""
    if _SHA256.fullmatch(blob):
        return ListedFile(size, sha256=blob)
    # What answers in the hub's place may name blobs by the plain SHA-1, which is as long as git's.
    if _SHA1.fullmatch(blob) and _sha1_of(path) != blob:
        return ListedFile(size, git_hash=blob)
    return ListedFile(size)


def _check_file(path: Path, listed: ListedFile, what: str, repository: Path) -> None:
    if listed.sha256 is not None:
        kind, wanted, found = "SHA-256", listed.sha256.lower(), sha256_of(path)
    elif listed.git_hash is not None:
        kind, wanted, found = "git hash", listed.git_hash.lower(), git_hash_of(path)
    else:
        return
    if found != wanted:
        _remove(path, repository)
        raise IntegrityError(
            f"{what} has the {kind} {found}, not the {wanted} that the hub lists; "
            "it was removed from the hub's cache: fetch it again"
        )


def _remove(path: Path, repository: Path) -> None:
    """Removes a file, and the blob that it links to; nothing that lies outside the repository's folder."""
    for found in (path.resolve(), path.parent.resolve() / path.name):
        if found.is_relative_to(repository):
            remove_tree(found)


def git_hash_of(path: Path) -> str:
    """The name that git gives a file's content."""
    return _sha1_of(path, b"blob %d\0" % path.stat().st_size)


def _sha1_of(path: Path, header: bytes = b"") -> str:
    digest = hashlib.sha1(header, usedforsecurity=False)
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()
