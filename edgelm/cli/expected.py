"""What a model will be that is not here, or not converted yet, and whether it fits: told before work begins."""

from __future__ import annotations

from pathlib import Path

from edgelm.bundle.catalog import CatalogEntry, load_catalog
from edgelm.bundle.manifest import Manifest
from edgelm.bundle.model_shape import expected_manifest
from edgelm.bundle.names import MODEL_NAME
from edgelm.cli.toolbox import foreteller
from edgelm.config import RuntimeConfig
from edgelm.errors import MemoryLimitError
from edgelm.runtime.fitting import LEAST_TOKENS, Limit, fit

# Of an entry that does not say how long a context may be.
_USUAL_CONTEXT = 2048
# The scheme that may take less than the usual one.
_SMALLER = "int4"


def expected_of_entry(entry: CatalogEntry, scheme: str | None = None) -> Manifest | None:
    """Of a model of the catalog; None where its entry has no shape."""
    if entry.shape is None or entry.parameters is None:
        return None
    return expected_manifest(
        entry.shape,
        name=entry.name,
        tasks=entry.tasks,
        parameters=entry.parameters,
        context_length=entry.context_length or _USUAL_CONTEXT,
        scheme=scheme or entry.quantization,
    )


def expected_of_checkpoint(path: Path, scheme: str) -> Manifest:
    """Of a checkpoint on this machine, by its headers.

    Raises:
        MissingDependencyError: the tools are not installed.
        ModelError: it is none, or one that cannot be converted.
    """
    made: Manifest = foreteller().expected_bundle(path, scheme=scheme)
    return made


def refuse_what_cannot_fit(model: str, max_memory: int | None, scheme: str | None = None) -> None:
    """Before it is fetched, a model of the catalog that would not even hold a short text within the limit is refused.

    ``scheme``: how it is to be quantized; None: as the catalog says.

    Raises:
        MemoryLimitError: it would not, whatever step is taken; itemises the need.
    """
    if max_memory is None or not MODEL_NAME.fullmatch(model):
        return
    entry = load_catalog().get(model)
    if entry is None:
        return
    refusal = _refusal(entry, scheme, max_memory)
    if refusal is None:
        return
    smaller = _SMALLER if scheme != _SMALLER and _refusal(entry, _SMALLER, max_memory) is None else None
    way = f"; or edgelm pull {model} --scheme {smaller}, which fits" if smaller else ""
    raise MemoryLimitError(f"{model} is not fetched, because it does not fit: {refusal}{way}")


def _refusal(entry: CatalogEntry, scheme: str | None, max_memory: int) -> MemoryLimitError | None:
    """Why the model would not even hold a short text; None: it would, or nobody knows."""
    manifest = expected_of_entry(entry, scheme)
    if manifest is None:
        return None
    try:
        fit(manifest, RuntimeConfig(), min(LEAST_TOKENS, manifest.context_length), limit=Limit(max_memory))
    except MemoryLimitError as error:
        return error
    return None
