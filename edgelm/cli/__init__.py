"""The command line: one command a file, which parses, calls and prints."""

from edgelm.cli.app import main

__all__ = ["main"]
