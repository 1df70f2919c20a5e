"""Manifests and catalog entries as text and as plain values."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from edgelm.bundle.catalog import CatalogEntry
from edgelm.bundle.manifest import KVGeometry, Manifest
from edgelm.bundle.store import StoreEntry
from edgelm.cli.units import size_text

# Figures of the quality report as people read them; any other is shown under its own name.
_QUALITY = {
    "kl": "KL divergence from fp32 (nats)",
    "perplexity": "perplexity",
    "reference_perplexity": "perplexity of fp32",
    "top1": "same likeliest token as fp32",
    "int8_cache_kl": "KL divergence, KV cache of int8 from one of f32 (nats)",
    "int8_cache_perplexity": "perplexity with a KV cache of int8",
    "int8_cache_top1": "same likeliest token as with a KV cache of f32",
}


def installed_line(manifest: Manifest) -> str:
    """``smollm2 is ready: int8, 150 MB, perplexity 12.3 (fp32: 12.2)``."""
    size = sum(file.size for file in manifest.files.values())
    parts = [scheme_text(manifest), size_text(size)]
    if "perplexity" in manifest.quality:
        parts.append(f"perplexity {manifest.quality['perplexity']:.4g}")
    if "reference_perplexity" in manifest.quality:
        parts[-1] += f" (fp32: {manifest.quality['reference_perplexity']:.4g})"
    return f"{manifest.name} is ready: {', '.join(parts)}"


def scheme_text(manifest: Manifest) -> str:
    """The quantization scheme."""
    return str(manifest.quantization["scheme"])


def quality_rows(*manifests: Manifest) -> list[tuple[str, ...]]:
    """For each figure that one of them has: what it is, and its value in each."""
    names = dict.fromkeys(name for manifest in manifests for name in manifest.quality)
    return [
        (_QUALITY.get(name, name), *(_figure(manifest.quality.get(name)) for manifest in manifests)) for name in names
    ]


def manifest_rows(manifest: Manifest) -> list[tuple[str, str]]:
    """What a person wants to know of a bundle, label and value."""
    settings = [f"{key} {value}" for key, value in manifest.quantization.items() if key != "scheme"]
    source = manifest.source
    rows = [
        ("name", manifest.name),
        ("architecture", f"{manifest.architecture} ({manifest.family})"),
        ("tasks", ", ".join(manifest.tasks)),
        ("context window", f"{manifest.context_length} tokens"),
        ("vocabulary", f"{manifest.vocab_size} tokens"),
        ("quantization", ", ".join([scheme_text(manifest), *settings])),
        ("licence", source.license),
        ("source", source.uri if source.revision is None else f"{source.uri} at {source.revision}"),
        *([("adapter", source.adapter)] if source.adapter else []),
        ("made with", ", ".join(f"{name} {version}" for name, version in manifest.tool_versions.items())),
    ]
    if manifest.kv is not None:
        rows.insert(5, ("KV cache", _cache_text(manifest.kv)))
    return [(label, value) for label, value in rows if value]


def expected_rows(manifest: Manifest) -> list[tuple[str, str]]:
    """What a person wants to know of a bundle that a checkpoint would become, label and value."""
    left_out = ("licence", "source", "made with")
    rows = [row for row in manifest_rows(manifest) if row[0] not in left_out]
    return [*rows, ("size", f"about {size_text(sum(file.size for file in manifest.files.values()))}")]


def _cache_text(kv: KVGeometry) -> str:
    text = f"{size_text(kv.bytes_per_token())} a token"
    return text if kv.scales is None else f"{text}, in int8 {size_text(kv.bytes_per_token('int8'))}"


def store_values(entry: StoreEntry) -> dict[str, Any]:
    """An installed model for ``--json``."""
    manifest = entry.manifest
    return {
        "name": entry.name,
        "installed": True,
        "path": str(entry.path),
        "size": entry.size,
        "modified": datetime.fromtimestamp(entry.modified, UTC).isoformat(timespec="seconds"),
        "scheme": None if manifest is None else scheme_text(manifest),
        "architecture": None if manifest is None else manifest.architecture,
        "context_length": None if manifest is None else manifest.context_length,
        "license": None if manifest is None else manifest.source.license,
        "error": entry.error,
    }


def catalog_values(entry: CatalogEntry) -> dict[str, Any]:
    """A model that could be pulled, for ``--json``."""
    return {
        "name": entry.name,
        "installed": False,
        "source": entry.source.uri,
        "tasks": list(entry.tasks),
        "download_size": entry.download_size,
        "size": entry.bundle_size,
        "scheme": entry.quantization,
        "parameters": entry.parameters,
        "context_length": entry.context_length,
        "license": entry.license,
        "description": entry.description,
        "gated": entry.gated,
    }


def catalog_rows(entry: CatalogEntry) -> list[tuple[str, str]]:
    """What a person wants to know of a model that could be pulled, label and value."""
    rows = [
        ("name", entry.name),
        ("description", entry.description),
        ("tasks", ", ".join(entry.tasks)),
        ("context window", "" if entry.context_length is None else f"{entry.context_length} tokens"),
        ("parameters", "" if entry.parameters is None else f"{entry.parameters:,}"),
        ("quantization", entry.quantization),
        ("licence", entry.license + (", to be accepted at the source" if entry.gated else "")),
        ("source", entry.source.uri),
        ("download", "" if entry.download_size is None else f"about {size_text(entry.download_size)}"),
        ("size", "" if entry.bundle_size is None else f"about {size_text(entry.bundle_size)}"),
    ]
    return [(label, value) for label, value in rows if value]


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.5g}"
