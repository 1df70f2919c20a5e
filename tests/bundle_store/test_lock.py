from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from edgelm.bundle.lock import FileLock
from edgelm.errors import LockedError, StorageError

HOLDER = """
import sys, time
from pathlib import Path
from edgelm.bundle.lock import FileLock
with FileLock(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def start_holder(path: Path) -> subprocess.Popen[str]:
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, str(path)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    return holder


def end(holder: subprocess.Popen[str]) -> None:
    holder.kill()
    holder.communicate()


def test_another_process_is_kept_out_and_a_killed_one_leaves_nothing_locked(home: Path) -> None:
    path = home / "sub" / ".x.lock"
    holder = start_holder(path)
    try:
        with pytest.raises(LockedError, match="my target"), FileLock(path, target=home / "my target"):
            pass
    finally:
        end(holder)
    assert holder.returncode == -signal.SIGKILL
    with FileLock(path):
        assert path.exists()
    assert not path.exists()


def test_the_same_process_is_kept_out_too(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with FileLock(path):
        with pytest.raises(LockedError), FileLock(path):
            pass
        # The refused attempt must not have removed the holder's file.
        with pytest.raises(LockedError), FileLock(path):
            pass
    with FileLock(path):
        pass


def test_waiting_ends_when_the_holder_leaves(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    first = FileLock(path)
    first.__enter__()
    threading.Timer(0.2, first.__exit__, (None, None, None)).start()
    with FileLock(path, timeout=10):
        pass


def test_waiting_ends_at_the_timeout(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with FileLock(path):
        begun = time.monotonic()
        with pytest.raises(LockedError), FileLock(path, timeout=0.2):
            pass
        assert 0.2 <= time.monotonic() - begun < 5


def test_only_one_of_many_threads_holds_it(tmp_path: Path) -> None:
    """The lock file is removed at each release: no two may hold different files of the same name."""
    path, inside, worst, entered = tmp_path / "lock", 0, 0, 0
    guard = threading.Lock()

    def work() -> None:
        nonlocal inside, worst, entered
        for _ in range(20):
            with FileLock(path, timeout=30):
                with guard:
                    inside += 1
                    entered += 1
                    worst = max(worst, inside)
                time.sleep(0.0005)
                with guard:
                    inside -= 1

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (worst, entered) == (1, 80)


def test_an_error_inside_releases(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with pytest.raises(KeyError), FileLock(path):
        raise KeyError
    with FileLock(path):
        pass


def test_a_place_that_cannot_have_a_lock_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageError, match="file"), FileLock(tmp_path / "file" / "lock"):
        pass


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_folder_is_named(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(StorageError, match="lock"), FileLock(tmp_path / "lock"):
        pass
