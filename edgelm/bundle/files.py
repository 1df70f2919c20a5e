"""Small file operations that the store and the downloads share: durable, and with errors that name the path."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import stat
import sys
from collections.abc import Iterator
from pathlib import Path

from edgelm.bundle.home import home
from edgelm.errors import ConfigError, StorageError

CHUNK_BYTES = 1 << 20

_STORAGE_ERRNOS = frozenset(
    (
        errno.EACCES,
        errno.EDQUOT,
        errno.EFBIG,
        errno.EIO,
        errno.ENAMETOOLONG,
        errno.ENOSPC,
        errno.EPERM,
        errno.EROFS,
    )
)
_NO_SYNC_ERRNOS = (errno.EINVAL, errno.ENOTSUP, errno.EROFS)


def is_storage_error(error: OSError) -> bool:
    """Whether it is the disk's doing: full, read-only, not permitted, failing."""
    return error.errno in _STORAGE_ERRNOS


def storage_error(error: OSError, path: Path) -> StorageError:
    """The typed error for a failed write; names the file the system named, else ``path``, and what helps."""
    named = error.filename if isinstance(error.filename, str) else path
    return StorageError(f"{named}: {error.strerror or error}{_way_on(error, Path(named))}")


def refuse_lack_of_room(folder: Path, needed: int, what: str) -> None:
    """Refuses at once what the disk cannot hold.

    Raises:
        StorageError: the disk of ``folder``, which exists, has fewer bytes free than are ``needed`` for ``what``.
        OSError: as the system says.
    """
    free = shutil.disk_usage(folder).free
    if free < needed:
        full = OSError(errno.ENOSPC, f"{what} takes {needed / 1e6:.0f} MB, and {free / 1e6:.0f} MB are free")
        raise storage_error(full, folder)


def _way_on(error: OSError, path: Path) -> str:
    """What helps where it is EdgeLM's own folder; any other the user has named, and knows."""
    try:
        if not path.absolute().is_relative_to(home()):
            return ""
    except ConfigError:  # there is none
        return ""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "; free some (edgelm rm), or set EDGELM_HOME to a folder with more room"
    return "; set EDGELM_HOME to a folder that can be written"


def make_folder(path: Path) -> None:
    """Makes a folder and those above it, usable by their owner whatever the umask.

    Raises:
        OSError: as the system says.
    """
    if path.is_dir():
        return
    make_folder(path.parent)
    path.mkdir(exist_ok=True)
    _grant_owner(path, stat.S_IRWXU)


def remove_tree(path: Path) -> None:
    """Removes a folder, a file or a link (never what it points to), as far as the system lets it."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
        return
    with contextlib.suppress(OSError):  # what is left is hidden, and the next writer of the same target tries again
        path.unlink(missing_ok=True)


def tree_size(path: Path, suffix: str = "") -> int:
    """Bytes of a folder's files whose names end so; links count as themselves, what vanishes meanwhile as nothing."""
    return sum(_file_sizes(path, suffix))


def largest_file(path: Path) -> int:
    """Bytes of the largest file in a folder; 0 where there is none."""
    return max(_file_sizes(path), default=0)


def sync_tree(root: Path) -> None:
    """Brings a folder with all its files to the disk, and makes them readable by their owner whatever the umask.

    Raises:
        OSError: as the system says; a full disk may show only here.
    """
    for folder, _, names in os.walk(root, topdown=False):
        for name in names:
            path = Path(folder) / name
            if path.is_file() and not path.is_symlink():
                sync_file(path)
        sync_folder(Path(folder))


def sync_file(path: Path) -> None:
    """Brings a file's content to the disk, and makes it readable by its owner whatever the umask."""
    _grant_owner(path, stat.S_IRUSR | stat.S_IWUSR)
    # Windows flushes only what is open for writing.
    _sync(path, os.O_RDWR if sys.platform == "win32" else os.O_RDONLY)


def sync_folder(path: Path) -> None:
    """Brings a folder's names to the disk, where the system can (Windows cannot, and need not)."""
    if sys.platform != "win32":
        _sync(path, os.O_RDONLY)


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's content, in hexadecimal digits."""
    with path.open("rb") as file:
        import hashlib  # brings in a crypto library that most starts do not need

        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_of_folder(path: Path) -> str:
    """SHA-256 over all files of a folder: of the lines ``HASH  NAME`` (as sha256sum prints them) in order of names.

    Raises:
        OSError: it is no folder, or a file cannot be read.
    """
    import hashlib

    names = sorted(file.relative_to(path).as_posix() for file in path.rglob("*") if file.is_file())
    if not names:
        raise FileNotFoundError(f"{path} is no folder with files in it")
    lines = [f"{sha256_of(path / name)}  {name}\n" for name in names]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _file_sizes(root: Path, suffix: str = "") -> Iterator[int]:
    for folder, _, names in os.walk(root):
        for name in (name for name in names if name.endswith(suffix)):
            with contextlib.suppress(OSError):
                yield (Path(folder) / name).lstat().st_size


def _sync(path: Path, flags: int) -> None:
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _NO_SYNC_ERRNOS:
            raise
    finally:
        os.close(descriptor)


def _grant_owner(path: Path, bits: int) -> None:
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & bits != bits:
        path.chmod(mode | bits)
