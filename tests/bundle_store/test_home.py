from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from edgelm.bundle import home as home_module
from edgelm.bundle.home import downloads_folder, expanded, home, models_folder, prepacked_folder, stamps_folder
from edgelm.errors import ConfigError

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="the XDG folders are Linux's")


def test_the_variable_wins(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("EDGELM_HOME", str(tmp_path / "mine 🦙"))
    assert home() == tmp_path / "mine 🦙"
    assert models_folder() == tmp_path / "mine 🦙" / "models"


def test_a_relative_variable_becomes_absolute(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EDGELM_HOME", "here")
    assert home() == tmp_path / "here"


@pytest.mark.parametrize("name", ["~no-such-user", "~no-such-user/x", "~x.json"])
def test_a_tilde_of_nobody_is_part_of_a_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EDGELM_HOME", name)
    assert home() == tmp_path / name
    assert expanded(Path(name)) == Path(name)
    assert expanded(Path("~/x")) == Path.home() / "x"


def test_a_user_without_a_folder_is_asked_for_one(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", unknown)
    for name in ("EDGELM_HOME", "XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ConfigError, match="set EDGELM_HOME"):
        home()


@linux_only
@pytest.mark.parametrize("empty", ["", None])
def test_xdg_cache_is_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, empty: str | None) -> None:
    monkeypatch.delenv("EDGELM_HOME", raising=False)
    if empty is not None:
        monkeypatch.setenv("EDGELM_HOME", empty)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert home() == tmp_path / "edgelm"


@linux_only
@pytest.mark.parametrize("xdg", ["", "relative/cache"])
def test_without_a_usable_xdg_cache_it_is_dot_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, xdg: str) -> None:
    monkeypatch.delenv("EDGELM_HOME", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", xdg)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert home() == tmp_path / ".cache" / "edgelm"


def test_windows_and_macos_have_their_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("EDGELM_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    monkeypatch.setattr(home_module.sys, "platform", "darwin")
    assert home() == tmp_path / "Library" / "Caches" / "edgelm"
    monkeypatch.setattr(home_module.sys, "platform", "win32")
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path / "local"))
    assert home() == tmp_path / "local" / "edgelm"


def test_nothing_is_created(home: Path) -> None:
    for folder in (models_folder(), downloads_folder(), prepacked_folder(), stamps_folder()):
        assert folder.parent == home
    assert not os.path.lexists(home)
