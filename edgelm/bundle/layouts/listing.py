"""What lies in a folder that somebody else filled: names and sizes of its regular files, and nothing else of it."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgelm.bundle.json_files import json_limit, load_json_file
from edgelm.bundle.manifest import FileEntry
from edgelm.bundle.names import name_fault
from edgelm.bundle.regular_file import read_file
from edgelm.errors import ModelError

GRAPHS_FOLDER = "onnx"
MAX_ENTRIES = 10_000


@dataclass(frozen=True, slots=True)
class Listing:
    """A folder's files.

    Attributes:
        folder: it.
        files: plain name → size of its regular files that have safe names; links are none.
        graphs: the same of its sub-folder ``onnx``; empty where there is none.
        folders: names of its sub-folders.
    """

    folder: Path
    files: Mapping[str, FileEntry]
    graphs: Mapping[str, FileEntry] = field(default_factory=dict)
    folders: frozenset[str] = frozenset()

    def read_object(self, name: str, *, folder: str = "") -> dict[str, Any]:
        """The object in a JSON file of the folder or of one of its sub-folders.

        Raises:
            ModelError: missing, too large, not strict JSON, or no object.
        """
        place = f"{folder}/{name}" if folder else name
        value = load_json_file(read_file(self.folder / folder, name, limit=json_limit(name)), name, what=place)
        if not isinstance(value, dict):
            raise ModelError(f"{place}: must be a JSON object")
        return value

    def optional_object(self, name: str) -> dict[str, Any]:
        """Like ``read_object``, and empty where there is no such file."""
        return self.read_object(name) if name in self.files else {}


def list_folder(folder: Path) -> Listing:
    """Reads a folder's names.

    Raises:
        ModelError: it cannot be read, or has more than ``MAX_ENTRIES`` entries.
    """
    files, folders = _scan(folder)
    graphs = _scan(folder / GRAPHS_FOLDER)[0] if GRAPHS_FOLDER in folders else {}
    return Listing(folder, files, graphs, frozenset(folders))


def _scan(folder: Path) -> tuple[dict[str, FileEntry], set[str]]:
    files: dict[str, FileEntry] = {}
    folders: set[str] = set()
    try:
        with os.scandir(folder) as entries:
            for count, entry in enumerate(entries):
                if count >= MAX_ENTRIES:
                    raise ModelError(f"{folder} has more than {MAX_ENTRIES} entries: it is no model's folder")
                if name_fault(entry.name):
                    continue
                status = entry.stat(follow_symlinks=False)
                if stat.S_ISREG(status.st_mode):
                    files[entry.name] = FileEntry(status.st_size, "")
                elif stat.S_ISDIR(status.st_mode):
                    folders.add(entry.name)
    except OSError as error:
        raise ModelError(f"{folder} cannot be read: {error.strerror or error}") from error
    return files, folders
