"""What a name on the command line stands for: a checkpoint, where it is, and under which name its bundle is kept."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import click

from edgelm.bundle.catalog import CatalogEntry, load_catalog
from edgelm.bundle.manifest import MANIFEST_NAME, Manifest
from edgelm.bundle.names import MODEL_NAME, name_fault
from edgelm.bundle.sources import HubSource, PypiSource, Source, parse_source
from edgelm.bundle.store import Store, store_name
from edgelm.errors import ConfigError, ModelError, ModelNotFoundError

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
        ModelError: it is a bundle, of which none is made.
    """
    # What can be no name needs no catalog, which the user may have to mend first.
    entry = load_catalog().get(text) if MODEL_NAME.fullmatch(text) else None
    if entry is not None:
        return _catalog_origin(entry)
    source = parse_source(text)
    if isinstance(source, HubSource):
        return Origin(name=store_name(text), source=source)
    if isinstance(source, PypiSource):
        return Origin(name=bundle_name(Path(source.member).stem), source=source)
    if exists(source.path / MANIFEST_NAME):
        raise ModelError(f"{text} is a bundle already, and runs as it is: edgelm run {text!r}")
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
    if not is_name(name):
        raise ConfigError(f"no name for the model can be made of {text!r:.120}; give one with --name")
    return name


def destination(output: Path | None, name: str | None, usual: str) -> tuple[str, Path]:
    """The name and the folder of a bundle to be made: ``--output``, or ``--name`` in the store, or the usual one there.

    Raises:
        click.UsageError: both are given.
        ConfigError: it can be no name in the store.
    """
    if output is not None and name is not None:
        raise click.UsageError("give either --output or --name")
    if output is not None:
        return bundle_name(output.resolve().name), output
    stored = usual if name is None else name
    if not is_name(stored):
        raise ConfigError(f"{stored!r:.120} is no name for a model; take up to 100 letters, digits, '.', '_' and '-'")
    # Not Store.path, to which an alias is the name of another model.
    return stored, Store().root / stored


def is_name(text: str) -> bool:
    """Whether the store can keep a model under it."""
    return MODEL_NAME.fullmatch(text) is not None and name_fault(text) is None


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


def exists(path: Path) -> bool:
    """Whether there is such a file or folder; what no path can be is not there."""
    try:
        return path.exists()
    except (OSError, ValueError):  # too long, or with a NUL in it
        return False


def _catalog_origin(entry: CatalogEntry) -> Origin:
    return Origin(
        name=entry.name,
        source=entry.source,
        license=entry.license,
        scheme=entry.quantization,
        sha256=entry.sha256,
        size=entry.download_size,
    )


def _stem(path: Path) -> str:
    name = path.resolve().name
    return name[: -len(path.suffix)] if path.is_file() and path.suffix else name
