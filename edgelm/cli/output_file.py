"""Files that a command writes at its end: whole, and refused at its beginning where their folder is not there."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgelm.bundle.home import expanded
from edgelm.cli import console
from edgelm.errors import ConfigError

if TYPE_CHECKING:
    _FileType = click.ParamType[Path]
else:
    _FileType = click.ParamType  # takes no type arguments before click 8.4


class _OutputFile(_FileType):
    """A file in a folder that exists; its name ends in ``suffix``, if there is one."""

    name = "file"

    def __init__(self, suffix: str | None = None) -> None:
        self._suffix = suffix

    def convert(self, value: str | Path, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        path = expanded(Path(value))
        try:
            if path.is_dir():
                raise ConfigError(f"{path} is a folder; name a file in it")
            refuse_missing_folder(path)
        except (ConfigError, ValueError) as error:  # ValueError: a NUL in the name
            self.fail(str(error), param, ctx)
        if self._suffix is not None and path.suffix.lower() != self._suffix:
            self.fail(f"{path} must end in {self._suffix}, as that is what is written", param, ctx)
        return path


OUTPUT_FILE = _OutputFile()
PNG_FILE = _OutputFile(".png")


def refuse_missing_folder(output: Path | None) -> None:
    """Refuses a file, or a folder to be made, in a folder that is not there.

    Raises:
        ConfigError: that is so; names it.
    """
    if output is not None and not output.absolute().parent.is_dir():
        raise ConfigError(f"there is no folder {str(output.parent)!r} to write {output.name} into; make it first")


def write_output(path: Path, data: bytes) -> None:
    """Writes a file whole or not at all, and says so; see ``writing_named``.

    Raises:
        StorageError: the disk is full, read-only or failing.
    """
    from edgelm.bundle.publish import write_named_file  # for the end of a command

    write_named_file(path, data)
    console.say(f"wrote {path}")
