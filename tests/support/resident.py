"""Memory of this process as the system counts it, once what was freed has gone back."""

from __future__ import annotations

import gc

from edgelm.runtime.session import give_back_freed_memory
from edgelm.runtime.usable_memory import resident_memory


def settled_memory() -> int:
    """Bytes of resident memory after everything that can be given back was; 0 where the system does not tell."""
    gc.collect()
    give_back_freed_memory()
    return resident_memory()
