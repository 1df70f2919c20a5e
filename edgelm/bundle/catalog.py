"""The catalog: short names of models, and where each comes from. EdgeLM's own, and the user's beside it."""

from __future__ import annotations

import importlib.resources
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

from edgelm.bundle.home import expanded, user_catalog_file
from edgelm.bundle.manifest import QUANTIZATION_SCHEMES
from edgelm.bundle.model_shape import ModelShape, parse_shape
from edgelm.bundle.names import MODEL_NAME
from edgelm.bundle.sources import HubSource, LocalSource, Source, parse_source
from edgelm.errors import ConfigError
from edgelm.sizes import parse_size

_SHA256 = re.compile(r"[0-9a-f]{64}")
_REQUIRED = frozenset({"source", "license", "tasks", "description"})
_OPTIONAL = frozenset(
    {
        "aliases",
        "bundle_size",
        "context_length",
        "download_size",
        "gated",
        "languages",
        "parameters",
        "quantization",
        "sha256",
        "shape",
        "system_prompt",
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class CatalogEntry:
    """One model of the catalog.

    Attributes:
        name: the short name.
        source: where the checkpoint is.
        license: SPDX identifier, or the licence's own name where it has none.
        tasks: what it is for, in transformers' names.
        description: one line.
        sha256: hash of the checkpoint's single file, or of its folder in a package; None for repositories, which are
            pinned when fetched.
        parameters: number of weights.
        download_size: bytes to download, about.
        bundle_size: bytes of the converted bundle, about.
        context_length: most tokens that prompt and answer have together; an encoder's text; an encoder-decoder's
            answer.
        system_prompt: what a chat starts with; None: what the chat template has.
        quantization: the scheme it is converted to unless asked otherwise.
        aliases: other names for the same.
        gated: the source asks for an accepted licence and a token.
        languages: what a translation model translates from, and to; empty: neither one pair, nor said.
        shape: sizes by which its memory is known before it is fetched; None: not said.
    """

    name: str
    source: Source
    license: str
    tasks: tuple[str, ...]
    description: str
    sha256: str | None = None
    parameters: int | None = None
    download_size: int | None = None
    bundle_size: int | None = None
    context_length: int | None = None
    system_prompt: str | None = None
    quantization: str = "int8"
    aliases: tuple[str, ...] = ()
    gated: bool = False
    languages: tuple[str, ...] = ()
    shape: ModelShape | None = None


class Catalog:
    """Entries by name and by alias; names win over aliases, later files over earlier ones."""

    def __init__(self, entries: Iterable[CatalogEntry]) -> None:
        by_name = {entry.name: entry for entry in entries}
        self.entries: Mapping[str, CatalogEntry] = MappingProxyType(by_name)
        self._aliases = {alias: entry for entry in by_name.values() for alias in entry.aliases}

    def get(self, name: str) -> CatalogEntry | None:
        """The entry with that name or alias, or None."""
        return self.entries.get(name) or self._aliases.get(name)

    def translators(self, source: str | None, target: str) -> list[CatalogEntry]:
        """Models that translate to ``target`` and nothing else, from ``source`` or, if that is None, from anything."""
        pairs = [entry for entry in self.entries.values() if entry.languages]
        return [entry for entry in pairs if entry.languages[1] == target and source in (None, entry.languages[0])]

    def names(self) -> list[str]:
        """All names and aliases, sorted."""
        return sorted({*self.entries, *self._aliases})


@cache
def own_catalog() -> Catalog:
    """The catalog that EdgeLM comes with."""
    file = importlib.resources.files("edgelm_models").joinpath("catalog.toml")
    return Catalog(parse_catalog(file.read_bytes(), Path("models", "catalog.toml")))


def load_catalog(user_file: Path | None = None) -> Catalog:
    """EdgeLM's catalog with the user's own entries, which add to it or replace entries of the same name.

    Args:
        user_file: the user's file; by default ``catalog.toml`` in ``EDGELM_HOME``. It need not exist.

    Raises:
        ConfigError: an entry breaks a rule; names file, entry and field.
    """
    entries = list(own_catalog().entries.values())
    path = user_catalog_file() if user_file is None else user_file
    try:
        entries += parse_catalog(path.read_bytes(), path)
    except (FileNotFoundError, NotADirectoryError):
        pass  # most users have none
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror or error}") from error
    return Catalog(entries)


def parse_catalog(data: bytes, file: Path) -> list[CatalogEntry]:
    """The entries of one catalog, in its order.

    Args:
        data: what the file holds.
        file: where it is; messages name it, and paths in it are relative to its folder.

    Raises:
        ConfigError: see ``load_catalog``.
    """
    try:
        tables = tomllib.loads(data.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{file}: not TOML: {error}") from error
    entries = []
    owners = {name: name for name in tables}
    for name, table in tables.items():
        try:
            entries.append(_entry(name, table, file.parent))
            for alias in entries[-1].aliases:
                if owners.setdefault(alias, name) != name:
                    raise ConfigError(f"the alias {alias!r} already stands for [{owners[alias]}]")
        except ConfigError as error:
            raise ConfigError(f"{file}: [{name:.120}]: {error}") from error
    return entries


def _entry(name: str, table: object, folder: Path) -> CatalogEntry:
    _check_name(name)
    if not isinstance(table, dict):
        raise ConfigError("must be a table of fields")
    unknown = sorted(set(table) - _REQUIRED - _OPTIONAL)
    if unknown:
        raise ConfigError(f"unknown field {unknown[0]!r}; known are: {', '.join(sorted(_REQUIRED | _OPTIONAL))}")
    missing = sorted(_REQUIRED - set(table))
    if missing:
        raise ConfigError(f"{missing[0]!r} is missing")
    source = parse_source(_text(table, "source"))
    if isinstance(source, LocalSource):
        source = LocalSource(folder / expanded(source.path))
    aliases = _texts(table, "aliases")
    for alias in aliases:
        _check_name(alias)
    return CatalogEntry(
        name=name,
        source=source,
        license=_text(table, "license"),
        tasks=_texts(table, "tasks"),
        description=_text(table, "description"),
        sha256=_sha256(table, source),
        parameters=_count(table, "parameters"),
        download_size=_size(table, "download_size"),
        bundle_size=_size(table, "bundle_size"),
        context_length=_count(table, "context_length"),
        system_prompt=_text(table, "system_prompt") if "system_prompt" in table else None,
        quantization=_scheme(table),
        aliases=aliases,
        gated=_flag(table, "gated"),
        languages=_pair(table),
        shape=parse_shape(table["shape"]) if "shape" in table else None,
    )


def _check_name(name: str) -> None:
    if not MODEL_NAME.fullmatch(name):
        raise ConfigError(f"{name!r:.120} is no name; take up to 100 letters, digits, '.', '_' and '-'")


def _text(table: Mapping[str, Any], field: str) -> str:
    value = table[field]
    if not isinstance(value, str) or not value.strip():
        raise ConfigError(f"{field!r} must be a text that is not empty, not {value!r:.80}")
    return value


def _texts(table: Mapping[str, Any], field: str) -> tuple[str, ...]:
    values = table.get(field, [])
    if not isinstance(values, list) or not all(isinstance(value, str) and value for value in values):
        raise ConfigError(f"{field!r} must be a list of texts, not {values!r:.80}")
    return tuple(values)


def _pair(table: Mapping[str, Any]) -> tuple[str, ...]:
    languages = _texts(table, "languages")
    if len(languages) not in (0, 2):
        raise ConfigError(f"'languages' must be two codes, from and to, not {table['languages']!r:.80}")
    return languages


def _scheme(table: Mapping[str, Any]) -> str:
    value = table.get("quantization", "int8")
    if value not in QUANTIZATION_SCHEMES:
        raise ConfigError(f"'quantization' must be one of {', '.join(QUANTIZATION_SCHEMES)}, not {value!r:.80}")
    return str(value)


def _count(table: Mapping[str, Any], field: str) -> int | None:
    value = table.get(field)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ConfigError(f"{field!r} must be a whole number above zero, not {value!r:.80}")
    return value


def _size(table: Mapping[str, Any], field: str) -> int | None:
    value = table.get(field)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise ConfigError(f"{field!r} must be a size such as '98MB', not {value!r:.80}")
    return parse_size(value)


def _flag(table: Mapping[str, Any], field: str) -> bool:
    value = table.get(field, False)
    if not isinstance(value, bool):
        raise ConfigError(f"{field!r} must be true or false, not {value!r:.80}")
    return value


def _sha256(table: Mapping[str, Any], source: Source) -> str | None:
    if "sha256" not in table:
        return None
    value = _text(table, "sha256").lower()
    if not _SHA256.fullmatch(value):
        raise ConfigError(f"'sha256' must have 64 hexadecimal digits, not {value!r:.80}")
    if isinstance(source, HubSource):
        raise ConfigError("'sha256' pins a single file; pin a hub repository by its commit, hf:ORG/NAME@COMMIT")
    return value
