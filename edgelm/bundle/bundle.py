"""Opens a bundle, or a folder of another tool: the one way from a folder to files that may be trusted.

What leaves this module has been checked: the manifest by its rules, every listed file by size and hash, every graph
by its operators, weights, inputs and outputs. Folders of others list no files and hashes; all else holds for them too.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgelm.bundle.graph_check import GraphInfo, check_graph
from edgelm.bundle.integrity import verify_files
from edgelm.bundle.json_files import json_limit, load_json_file
from edgelm.bundle.manifest import MANIFEST_NAME, MAX_MANIFEST_BYTES, Manifest, parse_manifest
from edgelm.bundle.regular_file import read_file
from edgelm.config import GenerationConfig
from edgelm.errors import ConfigError, ManifestError, ModelError, ModelNotFoundError

GENERATION_CONFIG_NAME = "generation_config.json"


@dataclass(frozen=True, slots=True)
class Bundle:
    """An open, checked bundle.

    Attributes:
        folder: where it is, from the root: files are read later, too, and an application may change its folder.
        manifest: of a folder of another tool, what it would say.
        graphs: role → what is known of its graph, as in the manifest.
        documents: text files that another tool keeps otherwise, by the names they have in a bundle.
        variants: what another tool's folder has several forms of, best first; empty for a bundle.
        variant: the one that is open.
    """

    folder: Path
    manifest: Manifest
    graphs: dict[str, GraphInfo]
    documents: dict[str, bytes] = field(default_factory=dict)
    variants: tuple[str, ...] = ()
    variant: str | None = None

    def has(self, name: str) -> bool:
        """Whether the bundle has the file."""
        return name in self.manifest.files or name in self.documents

    def path(self, name: str) -> Path:
        """Path of a file that the manifest lists.

        Raises:
            ModelError: it lists no such file.
        """
        if name not in self.manifest.files:
            raise ModelError(f"bundle {self.manifest.name} has no {name[:80]!a}")
        return self.folder / name

    def read_text(self, name: str, limit: int) -> str:
        """A file's content, which must be UTF-8 and have at most ``limit`` bytes.

        Raises:
            ModelError: no such file, too large, or not UTF-8.
        """
        try:
            return self.read_bytes(name, limit).decode("utf-8")
        except UnicodeDecodeError as error:
            raise ModelError(f"{name}: not UTF-8 at byte {error.start}") from None

    def read_json(self, name: str) -> Any:
        """A file's value, which must be strict JSON within the limits of ``json_files``.

        Raises:
            ModelError: no such file, too large, or not strict JSON.
        """
        return load_json_file(self.read_bytes(name, json_limit(name)), name)

    def generation_defaults(self) -> GenerationConfig:
        """How the model's authors would generate: ``generation_config.json``, or the defaults where it is absent.

        Raises:
            ModelError: the file is no JSON object, or a value is out of range.
        """
        if not self.has(GENERATION_CONFIG_NAME):
            return GenerationConfig()
        return generation_config_of(self.read_json(GENERATION_CONFIG_NAME))

    def read_bytes(self, name: str, limit: int) -> bytes:
        """A file's content, at most ``limit`` bytes.

        Raises:
            ModelError: no such file, or too large.
        """
        document = self.documents.get(name)
        if document is not None:
            if len(document) > limit:
                raise ModelError(f"{name} in {self.folder} has more than the {limit} bytes allowed")
            return document
        return read_file(self.path(name).parent, name, limit=limit)


def generation_config_of(values: Any) -> GenerationConfig:
    """What the value of a ``generation_config.json`` says.

    Raises:
        ModelError: it is no JSON object, or a value is out of range.
    """
    if not isinstance(values, dict):
        raise ModelError(f"{GENERATION_CONFIG_NAME}: must be a JSON object")
    try:
        return GenerationConfig.from_file_values(values)
    except (ConfigError, TypeError, OverflowError) as error:  # the last two: no list, or no float holds it
        raise ModelError(f"{GENERATION_CONFIG_NAME}: {str(error)[:300]}") from error


def open_bundle(
    folder: Path,
    *,
    stamps: Path | None = None,
    variant: str | None = None,
    before_hashing: Callable[[Manifest], object] | None = None,
) -> Bundle:
    """Opens a bundle, or a folder of another tool, and checks all of it; nothing in it is executed.

    Args:
        folder: the bundle's folder.
        stamps: where to remember which files were hashed already (see ``integrity``); None: hash at every open.
        variant: which of the forms to open that a folder of another tool has; None: the best for this processor.
        before_hashing: called with the manifest before files are hashed, which may take long; it may raise.

    Raises:
        ModelNotFoundError: there is no such folder.
        ConfigError: there is no such variant; names those there are.
        ManifestError: ``edgelm.json`` breaks a rule.
        IntegrityError: a file, ``edgelm.json`` or one that it lists, is missing, no regular file, or altered.
        ModelError: a graph may not be run, or a file cannot be read.
    """
    _check_folder(folder)
    if is_foreign(folder):
        from edgelm.bundle.layouts.read import read_folder

        found = read_folder(folder, variant=variant)
        return Bundle(folder.absolute(), found.manifest, found.graphs, found.documents, found.variants, found.variant)
    if variant is not None:
        raise ConfigError(f"{folder} is a bundle, which has no variants; {variant!r:.80} was asked for")
    manifest = read_manifest(folder)
    verify_files(folder, manifest, stamps=stamps, before_hashing=before_hashing)
    checked = {name: check_graph(folder, name, manifest) for name in dict.fromkeys(manifest.graphs.values())}
    return Bundle(folder.absolute(), manifest, {role: checked[name] for role, name in manifest.graphs.items()})


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a bundle, alone: no other file is looked at.

    Raises:
        ManifestError: ``edgelm.json`` breaks a rule.
        ModelError: it is missing, or cannot be read.
    """
    data = read_file(folder, MANIFEST_NAME, limit=MAX_MANIFEST_BYTES)
    try:
        return parse_manifest(data)
    except ManifestError as error:
        raise ManifestError(f"{error} (in {folder})") from None


def manifest_of(folder: Path, *, variant: str | None = None) -> Manifest:
    """What a model is, before it is opened: a bundle's manifest alone; of a folder of another tool, what its files say.

    Raises:
        See ``open_bundle``.
    """
    if is_foreign(folder):
        return open_bundle(folder, variant=variant).manifest
    return read_manifest(folder)


def is_foreign(folder: Path) -> bool:
    """Whether a folder is one of another tool that EdgeLM reads as it is, by the names of its files.

    Raises:
        ModelError: the folder cannot be read.
    """
    if os.path.lexists(folder / MANIFEST_NAME):
        return False
    from edgelm.bundle.layouts.read import layout_of  # a start from a bundle does without

    return layout_of(folder) is not None


def _check_folder(folder: Path) -> None:
    try:
        status = folder.stat()
    except (FileNotFoundError, NotADirectoryError):
        raise ModelNotFoundError(f"there is no folder {folder}") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise ModelError(f"{folder} cannot be opened: {error}") from error
    if not stat.S_ISDIR(status.st_mode):
        raise ModelError(f"{folder} is a file; a bundle is a folder with {MANIFEST_NAME} in it")
