"""Where EdgeLM keeps what it fetched and made. Names folders only: nothing here creates or changes one."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from edgelm.errors import ConfigError


def home() -> Path:
    """The folder of everything EdgeLM keeps: ``EDGELM_HOME``, else ``edgelm`` in the platform's user cache.

    The variables are read at each call, as the XDG base directory specification has it: a relative
    ``XDG_CACHE_HOME`` is ignored. A relative ``EDGELM_HOME`` is taken from the current folder.

    Raises:
        ConfigError: the variable is not set, and nothing tells where this user's folders are.
    """
    chosen = os.environ.get("EDGELM_HOME")
    if chosen:
        return expanded(Path(chosen)).absolute()
    return _user_cache() / "edgelm"


def expanded(path: Path) -> Path:
    """A path as a shell has it: ``~`` at its beginning is a user's folder, and part of a name where there is none."""
    try:
        return path.expanduser()
    except RuntimeError:
        return path


def models_folder() -> Path:
    """The store: one folder a bundle."""
    return home() / "models"


def downloads_folder() -> Path:
    """Files taken out of packages, kept so that a second conversion needs no network."""
    return home() / "downloads"


def prepacked_folder() -> Path:
    """Copies of weights in this machine's layout; safe to delete."""
    return home() / "prepacked"


def stamps_folder() -> Path:
    """Records that a bundle's hashes have been checked; safe to delete."""
    return home() / "stamps"


def user_catalog_file() -> Path:
    """The user's own catalog, which adds to the one that EdgeLM comes with."""
    return home() / "catalog.toml"


def _user_cache() -> Path:
    if sys.platform == "win32":
        local = os.environ.get("LOCALAPPDATA")
        return Path(local) if local else _own_folder() / "AppData" / "Local"
    if sys.platform == "darwin":
        return _own_folder() / "Library" / "Caches"
    cache = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return cache if cache.is_absolute() else _own_folder() / ".cache"


def _own_folder() -> Path:
    try:
        return Path.home()
    except RuntimeError:  # as in a container, for a user whom its list does not have
        raise ConfigError("nothing tells where this user's folders are; set EDGELM_HOME to one for models") from None
