"""Libraries are not loaded where a resource limit leaves no room, and what the loader refuses is a memory error."""

from __future__ import annotations

import subprocess
import sys

import pytest

from edgelm.errors import MemoryLimitError
from edgelm.runtime import library_room as module
from edgelm.runtime.library_room import loading_libraries


@pytest.fixture(autouse=True)
def nothing_loaded(monkeypatch):
    monkeypatch.setattr(module, "_LAST_LOADED", "no_such_library")


@pytest.mark.parametrize(("name", "free"), [("RLIMIT_AS", 200_000_000), ("RLIMIT_DATA", 50_000_000)])
def test_too_little_room_is_refused_before_anything_is_loaded(monkeypatch, name, free):
    monkeypatch.setattr(module, "address_room", lambda: {name: free})
    message = f"^the resource limit {name} leaves {free // 10**6} MB of addresses, and the libraries .* take "
    with pytest.raises(MemoryLimitError, match=message), loading_libraries():
        pytest.fail("the block began")


def test_a_limit_keeps_numpy_to_one_thread(monkeypatch):
    monkeypatch.delenv("OPENBLAS_NUM_THREADS", raising=False)
    monkeypatch.setattr(module, "address_room", dict)
    with loading_libraries():
        assert "OPENBLAS_NUM_THREADS" not in module.os.environ
    monkeypatch.setattr(module, "address_room", lambda: {"RLIMIT_AS": 10**12})
    with loading_libraries():
        assert module.os.environ["OPENBLAS_NUM_THREADS"] == "1"
    assert "OPENBLAS_NUM_THREADS" not in module.os.environ, "what else the application starts is its own affair"
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "3")
    with loading_libraries():
        assert module.os.environ["OPENBLAS_NUM_THREADS"] == "3", "whoever set it knows better"


def test_what_the_loader_refuses_for_want_of_memory_is_a_memory_error():
    message = r"^a library could not be loaded: not enough memory \(x.so: failed to map segment from shared object\)$"
    with pytest.raises(MemoryLimitError, match=message), loading_libraries():
        raise ImportError("x.so: failed to map segment from shared object")
    with pytest.raises(ImportError, match="no such module"), loading_libraries():
        raise ImportError("no such module")


LOADED = """
import os, resource, numpy, onnxruntime
from edgelm.runtime.usable_memory import status_bytes
used = status_bytes(open("/proc/self/status").read(), "VmSize")
resource.setrlimit(resource.RLIMIT_AS, (used + 200_000_000, -1))
import edgelm
print(edgelm.load.__name__, os.environ.get("OPENBLAS_NUM_THREADS"))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not tell how much of a limit is used")
def test_libraries_that_are_loaded_need_no_room(monkeypatch):
    monkeypatch.delenv("OPENBLAS_NUM_THREADS", raising=False)
    done = subprocess.run([sys.executable, "-c", LOADED], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "load None\n", "")
