"""Which models can keep their KV cache as what, by the manifest alone."""

from __future__ import annotations

from edgelm.bundle.manifest import NATIVE_LAYOUT, Manifest
from edgelm.config import KVCacheType
from edgelm.errors import UnsupportedModelError


def check_kv_cache(manifest: Manifest, kv_cache: KVCacheType) -> None:
    """Refuses a type that a model's cache cannot have.

    Raises:
        UnsupportedModelError: it cannot; says why, and what to do.
    """
    fault = int8_cache_fault(manifest) if kv_cache == "int8" else None
    if fault is not None:
        raise UnsupportedModelError(f"{manifest.name} cannot keep its KV cache in int8: {fault}")


def int8_cache_fault(manifest: Manifest) -> str | None:
    """Why a model can have no int8 KV cache; None: it can."""
    if manifest.family != "decoder":
        return f"that is for decoder-only models, and it is an {manifest.family}"
    if manifest.layout != NATIVE_LAYOUT:
        return "its graphs are another tool's; a bundle that edgelm export builds from the checkpoint can"
    if manifest.kv is None or manifest.kv.scales is None:
        return (
            "its bundle holds no scales for that; make it anew from the checkpoint (edgelm pull, export or quantize "
            "with --force)"
        )
    return None
