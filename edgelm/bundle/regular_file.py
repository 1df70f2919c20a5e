"""Opens the files of a folder that somebody else filled: regular files only, no links, no pipes, no surprises."""

from __future__ import annotations

import io
import os
import stat
from pathlib import Path

from edgelm.bundle.names import name_fault
from edgelm.errors import IntegrityError, ModelError

# Opening must follow no link, wait for no pipe's other end, and translate no line end.
_OPEN_FLAGS = os.O_RDONLY
for _flag in ("O_NOFOLLOW", "O_NONBLOCK", "O_CLOEXEC", "O_BINARY", "O_NOINHERIT"):
    _OPEN_FLAGS |= getattr(os, _flag, 0)


def stat_file(folder: Path, name: str) -> os.stat_result:
    """What the system says of a file of the folder.

    Raises:
        IntegrityError: it is missing or no regular file; a symbolic link is none, wherever it leads.
        ModelError: the name is not a plain file name, or the folder cannot be read.
    """
    fault = name_fault(name)
    if fault:
        raise ModelError(f"{name[:80]!a} is not a safe file name: it {fault}")
    try:
        status = (folder / name).lstat()
    except FileNotFoundError:
        raise IntegrityError(f"{name} is missing in {folder}") from None
    except OSError as error:
        raise _unreadable(folder, name, error) from error
    _check_regular(folder, name, status)
    return status


def open_file(folder: Path, name: str) -> io.BufferedReader:
    """The file, open for reading bytes.

    Raises:
        IntegrityError: it is missing or no regular file.
        ModelError: the name is not a plain file name, or the file cannot be read.
    """
    stat_file(folder, name)
    try:
        descriptor = os.open(folder / name, _OPEN_FLAGS)
    except OSError as error:
        raise _unreadable(folder, name, error) from error
    file = os.fdopen(descriptor, "rb")
    try:
        # What was a file a moment ago may be a pipe by now.
        _check_regular(folder, name, os.fstat(descriptor))
    except IntegrityError:
        file.close()
        raise
    return file


def read_file(folder: Path, name: str, *, limit: int) -> bytes:
    """All bytes of the file.

    Raises:
        IntegrityError: it is missing or no regular file.
        ModelError: it has more than ``limit`` bytes, cannot be read, or the name is not a plain file name.
    """
    with open_file(folder, name) as file:
        try:
            size = os.fstat(file.fileno()).st_size
            data = file.read(min(size, limit) + 1)  # room for so many bytes is made before they are read
        except OSError as error:
            raise _unreadable(folder, name, error) from error
    if len(data) > limit:
        raise ModelError(f"{name} in {folder} has more than the {limit} bytes allowed")
    return data


def _check_regular(folder: Path, name: str, status: os.stat_result) -> None:
    if stat.S_ISLNK(status.st_mode):
        raise IntegrityError(f"{name} in {folder} is a symbolic link; a bundle's files must be its own")
    if not stat.S_ISREG(status.st_mode):
        raise IntegrityError(f"{name} in {folder} is not a regular file")


def _unreadable(folder: Path, name: str, error: OSError) -> ModelError:
    return ModelError(f"{name} in {folder} cannot be read: {error.strerror or error}")
