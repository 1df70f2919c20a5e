"""What holds for all tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

# How long an example takes says something about the machine and what else runs on it, nothing about the code.
settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")


@pytest.fixture(scope="session", autouse=True)
def home_of_the_tests(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Nothing is ever kept in the user's own cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDGELM_HOME", str(tmp_path_factory.mktemp("edgelm-home")))
        yield


@pytest.fixture(scope="session", autouse=True)
def nothing_held_before() -> Iterator[None]:
    """What else the process of the tests holds is no part of what models are tested for."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("edgelm.runtime.process_memory.resident_memory", lambda: 0)
        yield
