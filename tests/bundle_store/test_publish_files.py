"""Single files: whole or as they were, and what a user names is kept as it was made."""

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from edgelm.bundle.publish import write_file_atomic, write_named_file, writing_atomic, writing_named
from edgelm.errors import StorageError


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_write_file_atomic_replaces_and_makes_folders(home: Path) -> None:
    path = home / "a" / "b" / "file"
    write_file_atomic(path, b"one")
    write_file_atomic(path, b"two")
    assert path.read_bytes() == b"two"
    assert names(path.parent) == ["file"]


@pytest.mark.skipif(os.name != "posix", reason="modes are POSIX's")
@pytest.mark.parametrize("mode", [0o600, 0o640, 0o666, 0o400])
def test_a_file_that_is_replaced_keeps_its_mode(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    path.chmod(mode)
    with writing_atomic(path) as file:
        assert os.fstat(file.fileno()).st_mode & 0o777 & ~mode == 0, "nobody else may read what is half written"
        file.write(b"new")
    assert path.stat().st_mode & 0o777 == mode
    assert path.read_bytes() == b"new"


@pytest.mark.skipif(os.name != "posix", reason="modes are POSIX's")
def test_a_new_file_has_the_mode_asked_for_less_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_file_atomic(tmp_path / "usual", b"x")
        with writing_atomic(tmp_path / "private", mode=0o600) as file:
            assert os.fstat(file.fileno()).st_mode & 0o777 == 0o600
    finally:
        os.umask(before)
    assert [(tmp_path / name).stat().st_mode & 0o777 for name in ("usual", "private")] == [0o640, 0o600]


@pytest.mark.parametrize("exists", [True, False])
def test_a_link_stands_for_the_file_that_it_points_to(tmp_path: Path, exists: bool) -> None:
    (tmp_path / "there").mkdir()
    file, link = tmp_path / "there" / "file", tmp_path / "link"
    if exists:
        file.write_bytes(b"old")
    link.symlink_to(Path("there") / "file")
    with writing_named(link) as new:
        new.write(b"new")
        assert not exists or file.read_bytes() == b"old"
    assert link.is_symlink()
    assert file.read_bytes() == b"new"
    assert names(tmp_path / "there") == ["file"]


def test_a_link_among_ones_own_files_is_replaced(tmp_path: Path) -> None:
    """Nobody named it: whoever put it there may be after what it points to."""
    (tmp_path / "other").write_bytes(b"old")
    (tmp_path / "link").symlink_to("other")
    write_file_atomic(tmp_path / "link", b"new")
    assert not (tmp_path / "link").is_symlink()
    assert (tmp_path / "other").read_bytes() == b"old"


def test_a_link_to_itself_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("link")
    with pytest.raises(StorageError, match="link"):
        write_named_file(tmp_path / "link", b"x")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="pipes in folders are POSIX's")
def test_a_pipe_stays_one(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        write_named_file(pipe, b"through")
        assert os.read(reader, 100) == b"through"
    finally:
        os.close(reader)
    assert pipe.is_fifo()
    assert names(tmp_path) == ["pipe"]


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="no links to open files")
def test_an_open_file_without_a_name_is_written_to(tmp_path: Path) -> None:
    with (tmp_path / "file").open("w+b") as file:
        (tmp_path / "file").unlink()
        write_named_file(Path(f"/proc/self/fd/{file.fileno()}"), b"through")
        assert file.read() == b"through"
    assert names(tmp_path) == []


def test_what_goes_wrong_is_told_once(tmp_path: Path) -> None:
    with pytest.raises(StorageError) as told, writing_named(tmp_path / "file"):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert str(told.value) == f"{tmp_path / 'file'}: No space left on device"
    assert names(tmp_path) == []


def test_a_folder_is_not_replaced_by_a_file(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(StorageError, match="folder"):
        write_named_file(tmp_path / "folder", b"x")
    assert names(tmp_path) == ["folder"]


@pytest.mark.skipif(os.name != "posix", reason="another system keeps open files from being removed")
def test_files_of_dead_writers_are_removed_and_those_of_living_ones_are_not(tmp_path: Path) -> None:
    script = (
        "import os, signal, sys; from pathlib import Path; from edgelm.bundle.publish import writing_atomic\n"
        "with writing_atomic(Path(sys.argv[1])) as file:\n"
        "    file.write(b'half'); file.flush(); os.kill(os.getpid(), signal.SIGKILL)"
    )
    path = tmp_path / "file"
    assert subprocess.run([sys.executable, "-c", script, str(path)], check=False).returncode == -signal.SIGKILL
    assert len(names(tmp_path)) == 1
    with writing_atomic(path) as first:
        first.write(b"first")
        assert len(names(tmp_path)) == 1
        write_file_atomic(path, b"second")
        write_file_atomic(tmp_path / "other", b"x")
        assert len(names(tmp_path)) == 3
    assert path.read_bytes() == b"first"
    assert names(tmp_path) == ["file", "other"]
