"""Libraries of native code, loaded where a resource limit may leave no room for them: refused, not ended.

What NumPy's own library does when its first allocation fails is to end the process, so there the room is looked at
before; what the loader refuses is an ImportError of many kinds.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from edgelm.errors import MemoryLimitError
from edgelm.runtime.usable_memory import address_room

# Addresses that NumPy and ONNX Runtime take with one thread each, by the limit that counts them; on Linux x86-64.
_TAKEN = {"RLIMIT_AS": 260_000_000, "RLIMIT_DATA": 60_000_000}
_THREADS_OF_NUMPY = "OPENBLAS_NUM_THREADS"
_SIGNS = ("failed to map segment", "cannot allocate memory", "cannot enable executable stack", "out of memory")


@contextmanager
def loading_libraries() -> Iterator[None]:
    """For a block that imports what may be the first to need them.

    Raises:
        MemoryLimitError: a resource limit leaves too little for them.
    """
    room = address_room()
    if room:  # each of its threads takes as much again; nothing that runs a model is quicker with them
        os.environ.setdefault(_THREADS_OF_NUMPY, "1")
    for name, free in room.items():
        if free < _TAKEN[name]:
            raise MemoryLimitError(
                f"the resource limit {name} leaves {free / 1e6:.0f} MB of addresses, and the libraries that run models "
                f"take {_TAKEN[name] / 1e6:.0f} MB before a model is loaded; raise it (ulimit)"
            )
    try:
        yield
    except ImportError as error:
        told = " ".join(str(error).split())
        if not any(sign in told.lower() for sign in _SIGNS):
            raise
        raise MemoryLimitError(f"a library could not be loaded: not enough memory ({told[-200:]})") from None
