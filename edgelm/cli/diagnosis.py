"""What ``edgelm doctor`` finds out about this machine, and what of it stands in the way."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import platform
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from edgelm.bundle.catalog import Catalog, load_catalog, own_catalog
from edgelm.bundle.home import home
from edgelm.bundle.manifest import Manifest
from edgelm.bundle.store import Store
from edgelm.cli.expected import expected_of_entry
from edgelm.cli.units import size_text
from edgelm.config import RuntimeConfig
from edgelm.errors import ConfigError, MemoryLimitError, StorageError, how_to_install
from edgelm.runtime.fitting import USUAL_TOKENS, Limit, fit, need_of
from edgelm.runtime.machine import Processor, memory_bandwidth, processor
from edgelm.runtime.session import RUNTIME_VERSION, runtime_build
from edgelm.runtime.usable_memory import MemoryBound, memory_bounds, resident_memory

PACKAGES = ("onnxruntime", "numpy", "tokenizers", "jinja2", "click")
EXTRAS = {
    "tools": ("onnx", "safetensors", "gguf", "huggingface_hub"),
    "guided": ("llguidance",),
    "optimum": ("optimum-onnx", "torch", "transformers"),
}
# Of the speed at which memory is read, what decoding makes of it: 0.5 to 0.7 for models of 100 million weights and more
# (SmolLM2 on an AMD EPYC); attention, small operators and the waiting between them take the rest.
_DECODING_SHARE = 0.6
# What a model takes on disk at most, in sizes of its bundle: that, and the copy in this processor's layout.
_BUNDLE_AND_COPY = 2.7
_LITTLE_DISK = 500_000_000
# Of the memory that is left, what measuring its speed takes is one part of so many.
_SHARE_TO_MEASURE = 4
_TELEMETRY = "ORT_DISABLE_TELEMETRY"
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


@dataclass(frozen=True, slots=True)
class Disk:
    """Where models are kept: ``free`` bytes of its file system, and whether it can be written."""

    path: str
    free: int
    writable: bool


@dataclass(frozen=True, slots=True)
class ModelHere:
    """What a model would be on this machine.

    Attributes:
        name: of the catalog, or the store.
        installed: whether it is in the store.
        need: bytes for a prompt and answer of ``USUAL_TOKENS``, or texts as long as it takes, with the usual settings.
        fits: whether that, or what the steps make of it, is within what this process may use.
        steps: what would be changed to fit.
        tokens_per_second: an estimate of decoding; None: it does not decode token by token with all weights.
        on_disk: bytes to fetch and to keep, about; None: it is there, or its size is not known.
    """

    name: str
    installed: bool
    need: int
    fits: bool
    steps: tuple[str, ...]
    tokens_per_second: float | None
    on_disk: int | None


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """All that was found.

    ``bandwidth`` in bytes a second; ``bounds`` the tightest first; ``faults``: of the store or the user's catalog.
    """

    versions: dict[str, str]
    extras: dict[str, tuple[str, ...]]
    runtime_build: str
    providers: tuple[str, ...]
    telemetry: bool
    processor: Processor
    bandwidth: float
    memory: int | None
    bounds: tuple[MemoryBound, ...]
    disk: Disk
    models: tuple[ModelHere, ...]
    faults: tuple[str, ...] = ()

    @property
    def exit_code(self) -> int:
        """0: something runs here; 3: no model fits into memory; 4: none is installed, and none can be kept."""
        if not any(model.fits for model in self.models):
            return 3
        if any(model.installed and model.fits for model in self.models):
            return 0
        return 0 if self.disk.writable and any(self.has_room(model) for model in self.models if model.fits) else 4

    def has_room(self, model: ModelHere) -> bool:
        """Whether the disk holds the model."""
        return model.on_disk is None or model.on_disk <= self.disk.free

    def as_dict(self) -> dict[str, Any]:
        """Plain values for ``--json``."""
        fields = dataclasses.asdict(self)
        fields["processor"]["consequence"] = self.processor.consequence
        return {**fields, "warnings": list(warnings_of(self)), "exit_code": self.exit_code}


def diagnose(*, seconds: float = 1.0) -> Diagnosis:
    """Looks at the machine; ``seconds``: for how long its memory is read."""
    bounds = tuple(sorted(memory_bounds(), key=lambda bound: bound.nbytes))
    bandwidth = memory_bandwidth(seconds, room=_room_to_measure(bounds))
    build, providers = runtime_build()
    faults: list[str] = []
    installed, catalog = _installed(faults), _catalog(faults)
    return Diagnosis(
        versions={"python": platform.python_version(), **{name: _version(name) or "missing" for name in PACKAGES}},
        extras={extra: tuple(name for name in names if _version(name) is None) for extra, names in EXTRAS.items()},
        runtime_build=f"{RUNTIME_VERSION}, {build}",
        providers=providers,
        telemetry=os.environ.get(_TELEMETRY, "") != "1",
        processor=processor(),
        bandwidth=bandwidth,
        memory=_memory(),
        bounds=bounds,
        disk=_disk(home()),
        models=tuple(_models(installed, catalog, bounds[0] if bounds else None, bandwidth)),
        faults=tuple(faults),
    )


def _room_to_measure(bounds: Sequence[MemoryBound]) -> int | None:
    """Bytes that measuring may take: for each of many cores as many as it likes would be more than some have."""
    return None if not bounds else (bounds[0].nbytes - resident_memory()) // _SHARE_TO_MEASURE


def warnings_of(found: Diagnosis) -> Iterator[str]:
    """What stands in the way, and what to do about it."""
    yield from found.faults
    bound = found.bounds[0] if found.bounds else None
    smallest = min(found.models, key=lambda model: model.need, default=None)
    if bound is not None and smallest is not None and not any(model.fits for model in found.models):
        yield (
            f"no model fits: {smallest.name} needs {size_text(smallest.need)}, {bound.source} is "
            f"{size_text(bound.nbytes)}; end other programs, or raise that limit"
        )
    elif bound is not None and found.memory is not None and bound.source.startswith("the room"):
        counted = ", and counts addresses, also of memory that is never used" if "RLIMIT" in bound.source else ""
        yield f"{bound.source} is {size_text(bound.nbytes)}, of this machine's {size_text(found.memory)}{counted}"
    yield from _disk_warnings(found)
    yield from _thread_warnings()
    if found.extras["tools"]:
        yield f"no model can be converted: {', '.join(found.extras['tools'])} missing; {how_to_install('tools')}"
    if found.telemetry:
        yield f"ONNX Runtime may report usage: unset {_TELEMETRY}, or set it to 1"
    if "no AVX2" in found.processor.consequence:
        yield "this processor has no AVX2: take small models"


def _disk_warnings(found: Diagnosis) -> Iterator[str]:
    disk = found.disk
    if not disk.writable:
        yield f"{disk.path} cannot be written: no model can be kept there; set EDGELM_HOME to another folder"
    elif disk.free < _LITTLE_DISK:
        yield f"only {size_text(disk.free)} free at {disk.path}; free some (edgelm rm --cache), or set EDGELM_HOME"


def _thread_warnings() -> Iterator[str]:
    named = [name for name in _THREAD_VARIABLES if os.environ.get(name)]
    if named:
        yield f"{', '.join(named)} set: that changes nothing here; threads are set with --threads"


def _installed(faults: list[str]) -> dict[str, Manifest]:
    try:
        return {entry.name: entry.manifest for entry in Store().installed() if entry.manifest is not None}
    except StorageError as error:
        faults.append(str(error))
        return {}


def _catalog(faults: list[str]) -> Catalog:
    try:
        return load_catalog()
    except ConfigError as error:
        faults.append(f"{error}; until that is mended, nothing of that file holds")
        return own_catalog()


def _models(
    installed: dict[str, Manifest], catalog: Catalog, bound: MemoryBound | None, bandwidth: float
) -> Iterator[ModelHere]:
    limit = Limit() if bound is None else Limit(bound.nbytes, bound.source)
    for name, manifest in installed.items():
        yield _model(name, manifest, limit, bandwidth, on_disk=None, installed=True)
    for name, entry in catalog.entries.items():
        expected = None if name in installed else expected_of_entry(entry)
        if expected is not None:
            kept = sum(file.size for file in expected.files.values())
            on_disk = int(_BUNDLE_AND_COPY * kept) + (entry.download_size or 0)
            yield _model(name, expected, limit, bandwidth, on_disk=on_disk, installed=False)


def _model(
    name: str, manifest: Manifest, limit: Limit, bandwidth: float, *, on_disk: int | None, installed: bool
) -> ModelHere:
    usual = RuntimeConfig()
    tokens = min(USUAL_TOKENS, manifest.context_length)
    need = need_of(manifest, usual, tokens)
    try:
        steps: tuple[str, ...] | None = tuple(map(str, fit(manifest, usual, tokens, limit=limit).steps))
    except MemoryLimitError:
        steps = None
    return ModelHere(
        name=name,
        installed=installed,
        need=need.total,
        fits=steps is not None,
        steps=steps or (),
        tokens_per_second=_DECODING_SHARE * bandwidth / need.weights if manifest.family == "decoder" else None,
        on_disk=on_disk,
    )


def _memory() -> int | None:
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return None


def _disk(folder: Path) -> Disk:
    """Of the nearest folder above that can be looked at, if it cannot itself: it may not be there yet, or be closed."""
    for place in (folder, *folder.absolute().parents):
        with contextlib.suppress(OSError):
            free = shutil.disk_usage(place).free
            return Disk(str(folder), free, place.is_dir() and os.access(place, os.W_OK | os.X_OK))
    return Disk(str(folder), 0, writable=False)  # on a drive that is not there


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
