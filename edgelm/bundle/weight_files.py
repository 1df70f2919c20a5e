"""Which of a bundle's files hold weights beside its graphs: a name says nothing, so all that are nothing else.

Memory is counted for these before a graph is read.
"""

from __future__ import annotations

from edgelm.bundle.manifest import FileEntry, Manifest

_TEXT_SUFFIXES = (".json", ".jinja", ".txt", ".md")


def weight_files(manifest: Manifest) -> dict[str, FileEntry]:
    """The listed files that weights may lie in: no graphs, no texts, not the embedding's, not the cache's scales."""
    known = set(manifest.graphs.values())
    if manifest.embedding is not None:
        known.add(manifest.embedding.file)
    if manifest.kv is not None and manifest.kv.scales is not None:
        known.add(manifest.kv.scales)
    return {
        name: entry for name, entry in manifest.files.items() if name not in known and not name.endswith(_TEXT_SUFFIXES)
    }
