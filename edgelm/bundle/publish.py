"""Writes a bundle so that it is either absent or whole, whenever the process dies.

A bundle is made in a hidden folder beside its target, brought to the disk, and renamed last. To replace one, the
old bundle is renamed aside, the new one renamed in, the old one deleted. Beside a target ``x`` there may be, in turn:

- ``.x.edgelm-lock``: one writer at a time;
- ``.x.edgelm-new-HEX``: being written; of no use once its writer is dead;
- ``.x.edgelm-old``: a whole bundle, set aside for the moment between two renames;
- ``.x.edgelm-trash-HEX``: being deleted.
"""

from __future__ import annotations

import math
import os
import re
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from edgelm.bundle.files import (
    is_storage_error,
    make_folder,
    remove_tree,
    storage_error,
    sync_file,
    sync_folder,
    sync_tree,
)
from edgelm.bundle.lock import FileLock, hold, remove_abandoned
from edgelm.bundle.manifest import MANIFEST_NAME
from edgelm.errors import BundleExistsError, LockedError, StorageError

_HEALING_WAIT_SECONDS = 2.0
_BESIDE = re.compile(r"\.(?P<target>.+)\.edgelm-(?:lock|old|(?:new|trash)-[0-9a-f]{8})")
_LEFTOVER = re.compile(r"\.(?P<target>.+)\.edgelm-(?:new|trash)-[0-9a-f]{8}")


@contextmanager
def publishing(target: Path, *, force: bool = False, marker: str = MANIFEST_NAME) -> Iterator[Path]:
    """Gives a new folder to fill; it becomes ``target`` when the block ends well, and vanishes when it does not.

    Args:
        target: where the folder shall be; a link stands for what it points to.
        force: replace an existing ``target``.
        marker: a file that an existing folder must hold to be replaced, so that ``force`` deletes nobody's own
            files; an empty folder may be replaced too.

    Raises:
        BundleExistsError: ``target`` exists, and may not be replaced.
        LockedError: another process is writing ``target``.
        StorageError: the disk is full, read-only or failing.
    """
    target = Path(os.path.realpath(target))
    with _storage_errors(target):
        _check_absent(target, force=force, marker=marker)
    with _storage_errors(target), _lock_of(target):
        _heal(target)
        _check_absent(target, force=force, marker=marker)
        folder = _beside(target, f"new-{_token()}")
        try:
            make_folder(folder)
            yield folder
            sync_tree(folder)
            _swap_in(folder, target)
        except BaseException:  # KeyboardInterrupt, too, must leave nothing behind
            remove_tree(folder)
            _heal(target)
            raise


def heal(target: Path, *, wait: bool = False) -> None:
    """Ends what a dead writer of ``target`` began: puts back a bundle set aside, deletes what was unfinished.

    Does nothing while a living process writes the target (``wait``: after two seconds), nor where writing is not
    permitted: a read-only store can still be read.
    """
    if not any(True for _ in _left_beside(target)):
        return
    try:
        with _lock_of(target, timeout=_HEALING_WAIT_SECONDS if wait else 0.0):
            _heal(target)
    except (LockedError, StorageError):
        return
    except OSError as error:
        if not is_storage_error(error):
            raise


def await_writer(target: Path) -> None:
    """Waits until no other process writes a target.

    Raises:
        StorageError: that cannot be found out.
    """
    with _storage_errors(target), _lock_of(target, timeout=math.inf):
        pass


def interrupted_targets(folder: Path) -> list[Path]:
    """The targets in a folder beside which a writer, living or dead, has left something."""
    names = {match["target"] for path in folder.iterdir() if (match := _BESIDE.fullmatch(path.name))}
    return [folder / name for name in sorted(names)]


def discard(target: Path) -> None:
    """Removes a bundle: gone at once for every reader, then deleted.

    Raises:
        FileNotFoundError: there is none.
        LockedError: another process is writing it.
        StorageError: the folder cannot be changed.
    """
    with _storage_errors(target), _lock_of(target):
        _heal(target)
        _throw_away(target, target)


def write_file_atomic(path: Path, data: bytes) -> None:
    """Writes a file that holds all of ``data`` or stays what it was; missing folders are made.

    Raises:
        StorageError: the disk is full, read-only or failing.
    """
    with writing_atomic(path) as file:
        file.write(data)


def write_named_file(path: Path, data: bytes) -> None:
    """Like ``write_file_atomic``, at a path that a user named: see ``writing_named``."""
    with writing_named(path) as file:
        file.write(data)


@contextmanager
def writing_named(path: Path, *, mode: int = 0o666) -> Iterator[BinaryIO]:
    """Like ``writing_atomic``, at a path that a user named: a link there stands for what it points to.

    What is no file, as a pipe or a device, stays, and is written to directly.

    Raises:
        StorageError: the disk is full, read-only or failing.
    """
    try:
        target = _file_at(path)
        with path.open("wb") if target is None else writing_atomic(target, mode=mode) as file:
            yield file
    except StorageError:  # by writing_atomic, which named the file
        raise
    except OSError as error:
        raise storage_error(error, path) from error


@contextmanager
def writing_atomic(path: Path, *, mode: int = 0o666) -> Iterator[BinaryIO]:
    """A file to write; it becomes ``path`` when the block ends well, and vanishes when it does not.

    Several processes may write one path at a time: the last one stays. What dead ones have left is removed.

    Args:
        path: what lies there is replaced; of a file, the new one has the mode.
        mode: of a new file, less the umask.

    Raises:
        StorageError: the disk is full, read-only or failing.
    """
    fresh = _beside(path, f"new-{_token()}")
    try:
        make_folder(path.parent)
        for left in _left_beside(path):
            if _LEFTOVER.fullmatch(left.name) and left.is_file():
                remove_abandoned(left)
        kept = _mode_of(path)
        with _new_file(fresh, mode if kept is None else kept) as file:
            yield file
            file.flush()
            if sys.platform == "win32":
                file.close()  # it replaces nothing by an open file
            sync_file(fresh)
            if kept is not None and _mode_of(fresh) != kept:
                fresh.chmod(kept)
            fresh.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        remove_tree(fresh)
        raise storage_error(error, path) from error
    except BaseException:
        remove_tree(fresh)
        raise


def _file_at(path: Path) -> Path | None:
    """The file that a path leads to, which may be still to be made; None where it leads to anything else."""
    target = Path(os.path.realpath(path)) if path.is_symlink() else path
    there = _status_of(path)
    if there is None:
        return target
    found = _status_of(target)  # links to open files, as /dev/stdout, lead to no name or to another file's
    return target if stat.S_ISREG(there.st_mode) and found and os.path.samestat(there, found) else None


def _mode_of(path: Path) -> int | None:
    """The permissions of a file; None where there is none, or a link."""
    status = _status_of(path, follow_symlinks=False)
    return stat.S_IMODE(status.st_mode) if status and stat.S_ISREG(status.st_mode) else None


def _status_of(path: Path, *, follow_symlinks: bool = True) -> os.stat_result | None:
    try:
        return path.stat(follow_symlinks=follow_symlinks)
    except FileNotFoundError:
        return None


def _new_file(path: Path, mode: int) -> BinaryIO:
    """A file that other processes can tell from a dead writer's, and that nobody else reads than will the whole one."""
    while True:
        file = open(path, "xb", opener=lambda name, flags: os.open(name, flags, mode))  # noqa: SIM115, the caller's
        if hold(file.fileno(), path):
            return file
        file.close()
        remove_tree(path)


def _swap_in(folder: Path, target: Path) -> None:
    old = _beside(target, "old")
    replacing = target.exists()
    if replacing:
        target.rename(old)
        sync_folder(target.parent)
    folder.rename(target)
    sync_folder(target.parent)
    if replacing:
        _throw_away(old, target)


def _heal(target: Path) -> None:
    """The caller holds the lock, so whatever lies beside the target belongs to the dead."""
    old = _beside(target, "old")
    if old.exists():
        if target.exists():
            _throw_away(old, target)
        else:
            old.rename(target)
            sync_folder(target.parent)
    for path in _left_beside(target):
        if _LEFTOVER.fullmatch(path.name):
            remove_tree(path)


def _throw_away(path: Path, target: Path) -> None:
    """Renames before it deletes: what bears a bundle's own name, or ``old``, is always whole."""
    trash = _beside(target, f"trash-{_token()}")
    path.rename(trash)
    sync_folder(trash.parent)
    remove_tree(trash)


def _check_absent(target: Path, *, force: bool, marker: str) -> None:
    if not os.path.lexists(target):
        return
    if not force:
        raise BundleExistsError(f"{target} exists already; choose another place, or replace it with --force")
    if not target.is_dir():
        raise BundleExistsError(f"{target} is not a folder, so it is not replaced")
    if not (target / marker).exists() and any(target.iterdir()):
        raise BundleExistsError(f"{target} has files but no {marker}, so it is not replaced; delete it first")


def _lock_of(target: Path, *, timeout: float = 0.0) -> FileLock:
    return FileLock(_beside(target, "lock"), target=target, timeout=timeout)


def _token() -> str:
    return os.urandom(4).hex()


def _beside(target: Path, kind: str) -> Path:
    return target.parent / f".{target.name}.edgelm-{kind}"


def _left_beside(target: Path) -> Iterator[Path]:
    try:
        paths = list(target.parent.iterdir())
    except OSError:
        return
    for path in paths:
        match = _BESIDE.fullmatch(path.name)
        if match and match["target"] == target.name:
            yield path


@contextmanager
def _storage_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if not is_storage_error(error):
            raise
        raise storage_error(error, path) from error
