"""What holds for all tests."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

# How long an example takes says something about the machine and what else runs on it, nothing about the code.
settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")


def pytest_configure(config: pytest.Config) -> None:
    """Gives each of several workers cores of its own: threads that spin while they wait would take the others'.

    Behind a script's ``&``, interrupts are ignored, also by all that is started from there; tests of Ctrl-C need them.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    worker = getattr(config, "workerinput", None)
    if worker is None or not hasattr(os, "sched_setaffinity"):
        return
    cores, workers = sorted(os.sched_getaffinity(0)), worker["workercount"]
    if workers <= len(cores):
        os.sched_setaffinity(0, cores[int(worker["workerid"].removeprefix("gw")) :: workers])


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A file of real models comes first: one worker converts them, while the others do what needs none."""
    first = next((item.path for item in items if item.path.parent.name == "models"), None)
    items.sort(key=lambda item: item.path != first)


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
