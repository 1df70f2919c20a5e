"""The one place where the command line reaches for the tools, which need packages that the runtime does not."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol, cast

from edgelm.errors import MissingDependencyError, how_to_install

# edgelm_tools itself comes with every wheel; it is on the list for those who take the runtime's folder alone.
_EXTRA = frozenset({"edgelm_tools", "gguf", "onnx", "safetensors"})


class Exporter(Protocol):
    """What is used of ``edgelm_tools.export``."""

    SCHEMES: tuple[str, ...]
    export: Callable[..., Any]


class OptimumExporter(Protocol):
    """What is used of ``edgelm_tools.optimum_bundle``."""

    export_with_optimum: Callable[..., Any]


class Foreteller(Protocol):
    """What is used of ``edgelm_tools.expected``."""

    expected_bundle: Callable[..., Any]


def foreteller() -> Foreteller:
    """The module that says what will become of a checkpoint.

    Raises:
        MissingDependencyError: a package that it needs is not installed.
    """
    with _needing_tools():
        return cast(Foreteller, importlib.import_module("edgelm_tools.expected"))


def optimum_exporter() -> OptimumExporter:
    """The module that converts checkpoints through optimum.

    Raises:
        MissingDependencyError: a package that it needs is not installed.
    """
    with _needing_tools():
        return cast(OptimumExporter, importlib.import_module("edgelm_tools.optimum_bundle"))


def exporter() -> Exporter:
    """The module that converts checkpoints.

    Raises:
        MissingDependencyError: a package that it needs is not installed.
    """
    with _needing_tools():
        return cast(Exporter, importlib.import_module("edgelm_tools.export"))


@contextmanager
def _needing_tools() -> Iterator[None]:
    try:
        yield
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing not in _EXTRA:
            raise
        raise MissingDependencyError(
            f"converting a model needs {missing}, which is not installed; {how_to_install('tools')}"
        ) from error
