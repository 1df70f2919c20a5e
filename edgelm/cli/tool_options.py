"""``--tools FILE``."""

from __future__ import annotations

from pathlib import Path

import click

from edgelm.cli.help_page import OWN
from edgelm.cli.options import Decorator, option


def tools_option(*, help: str) -> Decorator:  # noqa: A002, click's name for it
    """``--tools``, a file that the function gets as ``tools``; None where it is not given."""
    return option(OWN, "--tools", metavar="FILE", type=click.Path(path_type=Path), help=help)
