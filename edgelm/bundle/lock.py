"""One writer at a time, across processes: a lock the operating system drops when its holder dies."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from edgelm.bundle.files import make_folder, storage_error
from edgelm.errors import LockedError

_POLL_SECONDS = 0.05
_BUSY = (errno.EACCES, errno.EAGAIN, errno.EDEADLK)

if sys.platform == "win32":
    import msvcrt

    def _lock(descriptor: int) -> None:
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)

    def _unlock(descriptor: int) -> None:
        os.lseek(descriptor, 0, os.SEEK_SET)
        msvcrt.locking(descriptor, msvcrt.LK_UNLCK, 1)

else:
    import fcntl

    def _lock(descriptor: int) -> None:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def _unlock(descriptor: int) -> None:
        fcntl.flock(descriptor, fcntl.LOCK_UN)


class FileLock:
    """An exclusive lock on a file made for it; a context manager, also between threads of one process.

    A process that dies, even by ``kill -9``, leaves no lock, at most an empty file that the next holder takes over.

    Args:
        path: the lock's own file; it and missing folders above it are created, and it is removed on release.
        target: what is being written, for the message.
        timeout: seconds to wait for another holder; 0 does not wait.

    Raises:
        LockedError: on entering, when another holder has it; names the target.
        StorageError: on entering, when the file cannot be created or the file system has no locks.
    """

    def __init__(self, path: Path, *, target: Path | None = None, timeout: float = 0.0) -> None:
        self._path = path
        self._target = path if target is None else target
        self._timeout = timeout
        self._descriptor: int | None = None

    def __enter__(self) -> Self:
        deadline = time.monotonic() + self._timeout
        while True:
            try:
                self._descriptor = _acquire(self._path)
            except OSError as error:
                raise storage_error(error, self._path) from error
            if self._descriptor is not None:
                return self
            if time.monotonic() >= deadline:
                message = f"another process is writing {self._target}; wait until it has ended"
                raise LockedError(message, target=self._target)
            time.sleep(_POLL_SECONDS)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is None:
            return
        # Removed while still held, so that nobody can hold the file that is about to vanish (see _acquire). Windows
        # removes no open file, and a folder may have become read-only: then an empty file stays.
        with contextlib.suppress(OSError):
            self._path.unlink(missing_ok=True)
        try:
            _unlock(descriptor)
        finally:
            os.close(descriptor)


def hold(descriptor: int, path: Path) -> bool:
    """Marks a file that was just made as a living writer's; False: it was taken for a dead one's and removed.

    The mark is a lock, which goes with the descriptor. Windows needs none: it removes no open file.
    """
    if sys.platform == "win32":
        return True
    try:
        _lock(descriptor)
    except OSError as error:
        return error.errno not in _BUSY  # where there are no locks, nobody finds out who is dead
    return _is_at(descriptor, path)


def remove_abandoned(path: Path) -> None:
    """Removes a file unless a living writer holds it, or the system does not let it go."""
    with contextlib.suppress(OSError):
        descriptor = os.open(path, os.O_RDWR | getattr(os, "O_NOFOLLOW", 0))
        try:
            if sys.platform != "win32":
                _lock(descriptor)
                path.unlink()
        finally:
            os.close(descriptor)
        if sys.platform == "win32":
            path.unlink()


def _acquire(path: Path) -> int | None:
    """The descriptor of the locked file, or None when another holder has it."""
    while True:
        make_folder(path.parent)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            _lock(descriptor)
        except OSError as error:
            os.close(descriptor)
            if error.errno in _BUSY:
                return None
            raise
        if _is_at(descriptor, path):
            return descriptor
        # The last holder removed the file between our opening and our locking: nobody else would find this lock.
        os.close(descriptor)


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        there = path.stat()
    except FileNotFoundError:
        return False
    return os.path.samestat(os.fstat(descriptor), there)
