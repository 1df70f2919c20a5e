"""The command line: one command a file, which parses, calls and prints."""

from __future__ import annotations

import gc
import sys

_EXIT_INTERRUPTED = 130
# A start makes objects that stay: to look through them for garbage every 700 takes 5 % of it.
_OBJECTS_PER_COLLECTION = 100_000


def main() -> None:
    """The command ``edgelm``, also where it is interrupted while it is still being read."""
    gc.set_threshold(_OBJECTS_PER_COLLECTION)
    try:
        from edgelm.cli import app
    except KeyboardInterrupt:
        sys.exit(_EXIT_INTERRUPTED)
    app.main()
