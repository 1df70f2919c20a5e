from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(params=["plain", "with spaces and 🦙 émojis"])
def home(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An EDGELM_HOME that does not exist yet."""
    folder = tmp_path / str(request.param)
    monkeypatch.setenv("EDGELM_HOME", str(folder))
    return folder
