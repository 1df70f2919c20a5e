"""A fuzzer that asks for more memory than a few gigabytes has found something."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

_ROOM = 3 << 30


@pytest.fixture(autouse=True, scope="module")
def bounded_memory() -> Iterator[None]:
    if sys.platform != "linux":
        yield
        return
    import resource

    from edgelm.runtime.usable_memory import status_bytes

    limits = resource.getrlimit(resource.RLIMIT_DATA)
    used = status_bytes(Path("/proc/self/status").read_text(), "VmData") or 0
    resource.setrlimit(resource.RLIMIT_DATA, (used + _ROOM, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_DATA, limits)
