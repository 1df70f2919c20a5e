"""Which of a bundle's files hold weights beside its graphs: a name says nothing, so all that are nothing else.

Memory is counted for these before a graph is read; a graph that has weights elsewhere is refused once it is.
"""

from __future__ import annotations

from collections.abc import Iterable

from edgelm.bundle.manifest import FileEntry, Manifest
from edgelm.errors import ModelError

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


def check_weight_files(names: Iterable[str], *, graph_file: str, manifest: Manifest) -> None:
    """Checks that the files in which a graph has weights are those that memory is counted for.

    Raises:
        ModelError: one is not; names it and the graph.
    """
    counted = weight_files(manifest).keys() | manifest.graphs.values()
    for name in names:
        if name not in counted:
            raise ModelError(
                f"{graph_file}: has weights in {name!r:.80}; they may lie in the graph or in a file of their own, "
                "which is no text, no table of embeddings and no scales of the KV cache"
            )
