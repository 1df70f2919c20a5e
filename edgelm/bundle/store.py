"""The store: the folder where pulled and converted models lie, one bundle in each sub-folder.

Reading needs no right to write: a store on a read-only disk can be listed and run from.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from edgelm.bundle.bundle import read_manifest
from edgelm.bundle.files import tree_size
from edgelm.bundle.home import models_folder
from edgelm.bundle.integrity import check_sizes
from edgelm.bundle.manifest import MANIFEST_NAME, Manifest
from edgelm.bundle.names import MODEL_NAME, name_fault
from edgelm.bundle.publish import discard, heal, interrupted_targets
from edgelm.errors import ModelError, ModelNotFoundError, StorageError

if TYPE_CHECKING:
    from edgelm.bundle.catalog import Catalog

_HUB_PREFIX = "hf:"


class StoreEntry(NamedTuple):
    """One installed model.

    ``size``: bytes of all its files; ``manifest``: None where the bundle is broken, and ``error`` then says how;
    ``modified``: seconds since 1970 as the disk has it.
    """

    name: str
    path: Path
    size: int
    manifest: Manifest | None
    error: str | None
    modified: float


def store_name(model: str, catalog: Catalog | None = None) -> str:
    """The name under which a model is stored: an alias stands for its entry, ``hf:org/name`` becomes ``org--name``.

    Args:
        model: catalog name, alias, ``hf:org/name[@revision]`` or any other name.
        catalog: where aliases are looked up; by default EdgeLM's and the user's.

    Raises:
        ConfigError: ``hf:`` is not followed by a repository, or the user's catalog breaks a rule.
        ModelNotFoundError: no model can have that name.
    """
    if model.startswith(_HUB_PREFIX):
        return _hub_name(model)
    if not _is_name(model):
        raise ModelNotFoundError(f"{model!r:.200} is neither a folder nor a model's name")
    entry = _or_usual(catalog).get(model)
    return model if entry is None else entry.name


class Store:
    """The models in one folder, which need not exist yet.

    Args:
        root: the folder; by default ``models`` in ``EDGELM_HOME``.
        catalog: names and aliases of what could be pulled; by default EdgeLM's and the user's, read when needed.
    """

    def __init__(self, root: Path | None = None, *, catalog: Catalog | None = None) -> None:
        self.root = models_folder() if root is None else root
        self._catalog = catalog

    def path(self, name: str) -> Path:
        """Where the model of that name is, or would be.

        Raises:
            ConfigError, ModelNotFoundError: see ``store_name``.
        """
        return self.root / store_name(name, self._catalog)

    def installed(self) -> list[StoreEntry]:
        """All models, by name; a broken bundle is listed with its error.

        Raises:
            StorageError: the folder cannot be read.
        """
        try:
            for target in interrupted_targets(self.root):
                heal(target)
            paths = [path for path in self.root.iterdir() if _is_name(path.name) and path.is_dir()]
        except FileNotFoundError:
            return []
        except OSError as error:
            raise StorageError(f"{self.root}: {error.strerror or error}") from error
        return [entry for path in sorted(paths) if (entry := _entry(path)) is not None]

    def resolve(self, model: str) -> Path:
        """The folder of a model: MODEL is a folder, or the name of an installed model.

        A folder of the current directory goes before an installed model of the same name only if it is a bundle.

        Raises:
            ConfigError: see ``store_name``.
            ModelNotFoundError: there is none; says how to get it, or names near ones.
        """
        literal = self._healed_path(_hub_name(model)) if model.startswith(_HUB_PREFIX) else None
        if literal is None and _is_name(model):
            literal = self._healed_path(model)
        if model and _is_folder(model) and (literal is None or (Path(model) / MANIFEST_NAME).is_file()):
            return Path(model)
        if literal is not None:
            return literal
        if not _is_name(model) and not model.startswith(_HUB_PREFIX):
            near = self._near(model)
            if near:
                raise ModelNotFoundError(f"there is no model {model!r:.200}; did you mean {near}?")
        found = self._healed_path(store_name(model, self._catalog))
        if found is None:
            raise ModelNotFoundError(self._not_found(model))
        return found

    def remove(self, model: str) -> int:
        """Deletes an installed model and returns the bytes it had; it is gone for readers before it is deleted.

        Raises:
            ConfigError: see ``store_name``.
            LockedError: another process is writing it.
            ModelNotFoundError: there is none of that name; a path is none.
            StorageError: the store cannot be changed.
        """
        target = self.installed_path(model)
        heal(target)
        size = tree_size(target) if target.is_dir() and not target.is_symlink() else 0
        try:
            discard(target)
        except FileNotFoundError:
            raise ModelNotFoundError(f"no model {model!r} is installed") from None
        return size

    def installed_path(self, model: str) -> Path:
        """Where a model of the store lies: under its own name, or under the one that the catalog has for it.

        Raises:
            ConfigError, ModelNotFoundError: see ``store_name``.
        """
        literal = self.root / model if _is_name(model) else None
        return literal if literal is not None and os.path.lexists(literal) else self.path(model)

    def _healed_path(self, name: str) -> Path | None:
        target = self.root / name
        if not target.is_dir():
            heal(target, wait=True)  # perhaps a writer died between setting the old aside and moving the new in
        return target if target.is_dir() else None

    def _not_found(self, model: str) -> str:
        how = f"{model!r} is not installed; get it with: edgelm pull {model} (in Python edgelm.pull({model!r}))"
        if model.startswith(_HUB_PREFIX):
            return how
        if _or_usual(self._catalog).get(model) is not None:
            return how
        near = self._near(model)
        if near:
            return f"there is no model {model!r}; did you mean {near}?"
        return f"there is no model {model!r}: it is no folder, not installed and not in the catalog"

    def _near(self, model: str) -> str:
        """Names that are meant perhaps, of those that are listed; empty where none is near."""
        import difflib

        known = sorted({*_or_usual(self._catalog).entries, *(entry.name for entry in self.installed())})
        plain = model.partition(":")[0].lower()  # others write smollm2:latest
        same = [name for name in known if name.lower() == plain]
        return " or ".join(same or difflib.get_close_matches(plain, known, n=3))


def _or_usual(catalog: Catalog | None) -> Catalog:
    """The catalog, or EdgeLM's and the user's, which what is found by its own name does without."""
    from edgelm.bundle.catalog import load_catalog

    return load_catalog() if catalog is None else catalog


def _hub_name(model: str) -> str:
    from edgelm.bundle.sources import HubSource, parse_source

    source = parse_source(model)
    if not isinstance(source, HubSource):
        raise ModelNotFoundError(f"{model!r:.200} is not a hub repository")
    name = source.repo.replace("/", "--")
    if not _is_name(name):
        raise ModelNotFoundError(f"{model!r} cannot be stored: {name!r} is too long or no name for a folder")
    return name


def _is_name(text: str) -> bool:
    return MODEL_NAME.fullmatch(text) is not None and name_fault(text) is None


def _is_folder(model: str) -> bool:
    try:
        return Path(model).is_dir()
    except (OSError, ValueError):  # too long, or with a NUL in it
        return False


def _entry(path: Path) -> StoreEntry | None:
    manifest, fault = None, None
    try:
        modified = path.stat().st_mtime
        manifest = read_manifest(path)
        check_sizes(path, manifest)
    except FileNotFoundError:
        return None  # removed by another process meanwhile
    except ModelError as error:
        manifest, fault = None, str(error)
    return StoreEntry(path.name, path, tree_size(path), manifest, fault, modified)
