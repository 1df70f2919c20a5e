"""Libraries of native code, loaded where a resource limit may leave no room for them: refused, not ended.

What NumPy's own library does when its first allocation fails is to end the process, so there the room is looked at
before; what the loader refuses is an ImportError of many kinds.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

from edgelm.errors import MemoryLimitError
from edgelm.runtime.usable_memory import address_room

# Addresses that NumPy and ONNX Runtime take with one thread each, by the limit that counts them; on Linux x86-64.
_TAKEN = {"RLIMIT_AS": 260_000_000, "RLIMIT_DATA": 60_000_000}
_LAST_LOADED = "onnxruntime"
THREADS_OF_NUMPY = "OPENBLAS_NUM_THREADS"
_SIGNS = ("failed to map segment", "cannot allocate memory", "cannot enable executable stack", "out of memory")


@contextmanager
def loading_libraries() -> Iterator[None]:
    """For a block that imports what may be the first to need them.

    Raises:
        MemoryLimitError: a resource limit leaves too little for them.
    """
    room = {} if _LAST_LOADED in sys.modules else address_room()
    for name, free in room.items():
        if free < _TAKEN[name]:
            raise MemoryLimitError(
                f"the resource limit {name} leaves {free / 1e6:.0f} MB of addresses, and the libraries that run models "
                f"take {_TAKEN[name] / 1e6:.0f} MB before a model is loaded; raise it (ulimit)"
            )
    try:
        with _one_thread() if room else nullcontext():
            yield
    except ImportError as error:
        told = " ".join(str(error).split())
        if not any(sign in told.lower() for sign in _SIGNS):
            raise
        raise MemoryLimitError(f"a library could not be loaded: not enough memory ({told[-200:]})") from None


@contextmanager
def _one_thread() -> Iterator[None]:
    """NumPy's threads take as much again each, and nothing that runs a model is quicker with them.

    It reads the variable as it is loaded; what the process starts later is none of ours.
    """
    if THREADS_OF_NUMPY in os.environ:
        yield
        return
    os.environ[THREADS_OF_NUMPY] = "1"
    try:
        yield
    finally:
        os.environ.pop(THREADS_OF_NUMPY, None)
