"""The command line: one command a file, which parses, calls and prints."""

from __future__ import annotations

import sys

_EXIT_INTERRUPTED = 130


def main() -> None:
    """The command ``edgelm``, also where it is interrupted while it is still being read."""
    try:
        from edgelm.cli import app
    except KeyboardInterrupt:
        sys.exit(_EXIT_INTERRUPTED)
    app.main()
