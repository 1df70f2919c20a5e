"""What an answer may depend on beside the model and the settings: versions, and the processor."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from edgelm import __version__
from edgelm.bundle.layouts.cpu import instruction_sets

_CPU_INFO = Path("/proc/cpuinfo")
_MAX_NAME = 200


def describe_machine() -> dict[str, str]:
    """Name → version or description, all short texts that can be printed."""
    packages = {name: found for name in ("onnxruntime", "numpy", "llguidance") if (found := _version(name))}
    return {
        "edgelm": __version__,
        **packages,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "instruction_sets": " ".join(sorted(instruction_sets())) or "unknown",
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _processor() -> str:
    try:
        lines = _CPU_INFO.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    named = next((line.partition(":")[2] for line in lines if line.startswith("model name")), platform.processor())
    return "".join(filter(str.isprintable, named)).strip()[:_MAX_NAME] or "unknown"
