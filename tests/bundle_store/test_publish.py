from __future__ import annotations

import os
import random
import resource
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from edgelm.bundle.files import sync_tree
from edgelm.bundle.lock import FileLock
from edgelm.bundle.publish import (
    await_writer,
    discard,
    heal,
    interrupted_targets,
    publishing,
    write_file_atomic,
)
from edgelm.errors import BundleExistsError, DownloadError, LockedError, StorageError

PARTS = 20

# Replaces the target for ever by a folder of PARTS files that all hold the generation's number.
WRITER = f"""
import sys
from pathlib import Path
from edgelm.bundle.publish import publishing
target, generation = Path(sys.argv[1]), 0
while True:
    with publishing(target, force=True) as folder:
        for part in range({PARTS}):
            (folder / f"part{{part}}").write_text(str(generation))
        (folder / "edgelm.json").write_text(str(generation))
    if generation == 0:
        print("published", flush=True)
    generation += 1
"""


def publish(target: Path, text: str, *, force: bool = False) -> None:
    with publishing(target, force=force) as folder:
        (folder / "edgelm.json").write_text(text)
        (folder / "sub").mkdir()
        (folder / "sub" / "weights").write_text(text)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_it_is_there_whole_and_nothing_else_is(home: Path) -> None:
    target = home / "models" / "tiny"
    with publishing(target) as folder:
        assert folder.parent == target.parent
        (folder / "edgelm.json").write_text("{}")
        assert not target.exists()
    assert (target / "edgelm.json").read_text() == "{}"
    assert names(target.parent) == ["tiny"]


def test_an_existing_target_is_refused_before_any_work(tmp_path: Path) -> None:
    target = tmp_path / "tiny"
    publish(target, "old")
    with pytest.raises(BundleExistsError, match=r"tiny exists.*--force"), publishing(target):
        pytest.fail("the block must not run")
    assert (target / "edgelm.json").read_text() == "old"
    assert names(tmp_path) == ["tiny"]


def test_force_replaces_it(tmp_path: Path) -> None:
    target = tmp_path / "tiny"
    publish(target, "old")
    (target / "stale").write_text("")
    publish(target, "new", force=True)
    assert (target / "sub" / "weights").read_text() == "new"
    assert names(target) == ["edgelm.json", "sub"]
    assert names(tmp_path) == ["tiny"]


def test_force_deletes_no_folder_that_is_not_a_bundle(tmp_path: Path) -> None:
    documents = tmp_path / "documents"
    documents.mkdir()
    (documents / "thesis.txt").write_text("years")
    with pytest.raises(BundleExistsError, match=r"has files but no edgelm\.json"):
        publish(documents, "new", force=True)
    with pytest.raises(BundleExistsError, match="is not a folder"):
        publish(documents / "thesis.txt", "new", force=True)
    assert (documents / "thesis.txt").read_text() == "years"


def test_force_takes_an_empty_folder_and_what_a_link_points_to(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "empty")
    publish(tmp_path / "link", "new", force=True)
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "empty" / "edgelm.json").read_text() == "new"


@pytest.mark.parametrize("error", [KeyError("x"), KeyboardInterrupt(), SystemExit(3), DownloadError("gone")])
@pytest.mark.parametrize("existing", [False, True])
def test_a_block_that_fails_leaves_what_was(tmp_path: Path, error: BaseException, existing: bool) -> None:
    target = tmp_path / "tiny"
    if existing:
        publish(target, "old")

    def fail() -> None:
        with publishing(target, force=True) as folder:
            (folder / "edgelm.json").write_text("new")
            raise error

    with pytest.raises(type(error)):
        fail()
    assert names(tmp_path) == (["tiny"] if existing else [])
    assert not existing or (target / "edgelm.json").read_text() == "old"


def test_a_failure_between_the_two_renames_puts_the_old_one_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "tiny"
    publish(target, "old")
    rename = Path.rename

    def failing(self: Path, to: Path) -> Path:
        if to == target and ".edgelm-new-" in self.name:
            raise KeyboardInterrupt
        return rename(self, to)

    monkeypatch.setattr(Path, "rename", failing)
    with pytest.raises(KeyboardInterrupt):
        publish(target, "new", force=True)
    assert (target / "edgelm.json").read_text() == "old"
    assert names(tmp_path) == ["tiny"]


def test_a_second_writer_is_kept_out_by_name(tmp_path: Path) -> None:
    target = tmp_path / "tiny"
    with publishing(target) as folder:
        (folder / "edgelm.json").write_text("first")
        with pytest.raises(LockedError, match="tiny"):
            publish(target, "second", force=True)
        publish(tmp_path / "other", "no conflict")
    assert (target / "edgelm.json").read_text() == "first"


def test_killed_at_any_moment_it_leaves_the_old_or_the_new(home: Path) -> None:
    target = home / "tiny"
    chance = random.Random(20)
    for _ in range(5):
        writer = subprocess.Popen([sys.executable, "-c", WRITER, str(target)], stdout=subprocess.PIPE, text=True)
        assert writer.stdout is not None
        assert writer.stdout.readline() == "published\n"
        time.sleep(chance.uniform(0.0, 0.1))
        writer.send_signal(signal.SIGKILL)
        writer.communicate()
        heal(target)
        assert len({path.read_text() for path in target.iterdir()}) == 1
        assert len(names(target)) == PARTS + 1
        assert names(home) == ["tiny"]


def test_killed_before_the_first_one_it_leaves_none(tmp_path: Path) -> None:
    target = tmp_path / "tiny"
    script = (
        "import os, signal, sys; from pathlib import Path; from edgelm.bundle.publish import publishing\n"
        "with publishing(Path(sys.argv[1])) as folder:\n"
        "    (folder / 'half').write_text('x'); os.kill(os.getpid(), signal.SIGKILL)"
    )
    assert subprocess.run([sys.executable, "-c", script, str(target)], check=False).returncode == -signal.SIGKILL
    assert not target.exists()
    assert len(names(tmp_path)) == 2  # the lock's file and the unfinished folder
    publish(target, "next")
    assert names(tmp_path) == ["tiny"]


@pytest.mark.parametrize("new_is_in", [False, True])
def test_an_interrupted_swap_is_healed(tmp_path: Path, new_is_in: bool) -> None:
    publish(tmp_path / "tiny", "old")
    (tmp_path / "tiny").rename(tmp_path / ".tiny.edgelm-old")
    if new_is_in:
        publish_elsewhere = tmp_path / "elsewhere"
        publish(publish_elsewhere, "new")
        publish_elsewhere.rename(tmp_path / "tiny")
    assert interrupted_targets(tmp_path) == [tmp_path / "tiny"]
    heal(tmp_path / "tiny")
    assert (tmp_path / "tiny" / "edgelm.json").read_text() == ("new" if new_is_in else "old")
    assert names(tmp_path) == ["tiny"]


def test_without_force_a_bundle_that_was_set_aside_counts_as_existing(tmp_path: Path) -> None:
    publish(tmp_path / "tiny", "old")
    (tmp_path / "tiny").rename(tmp_path / ".tiny.edgelm-old")
    with pytest.raises(BundleExistsError):
        publish(tmp_path / "tiny", "new")
    assert (tmp_path / "tiny" / "edgelm.json").read_text() == "old"


def test_healing_leaves_a_living_writer_and_other_targets_alone(tmp_path: Path) -> None:
    (tmp_path / ".tiny.more.edgelm-new-01234567").mkdir()
    with publishing(tmp_path / "tiny") as folder:
        (folder / "edgelm.json").write_text("first")
        heal(tmp_path / "tiny")
        assert folder.is_dir()
    publish(tmp_path / "tiny", "second", force=True)
    assert names(tmp_path) == [".tiny.more.edgelm-new-01234567", "tiny"]


def test_discard_leaves_nothing(tmp_path: Path) -> None:
    publish(tmp_path / "tiny", "x")
    discard(tmp_path / "tiny")
    assert names(tmp_path) == []
    with pytest.raises(FileNotFoundError):
        discard(tmp_path / "tiny")


def test_discard_of_a_link_spares_what_it_points_to(tmp_path: Path) -> None:
    publish(tmp_path / "real", "x")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    discard(tmp_path / "link")
    assert names(tmp_path) == ["real"]
    assert (tmp_path / "real" / "edgelm.json").exists()


def test_discard_waits_for_no_writer(tmp_path: Path) -> None:
    publish(tmp_path / "tiny", "x")
    with publishing(tmp_path / "tiny", force=True) as folder:
        (folder / "edgelm.json").write_text("y")
        with pytest.raises(LockedError):
            discard(tmp_path / "tiny")
    assert (tmp_path / "tiny" / "edgelm.json").read_text() == "y"


def limited(work: str, folder: Path, limit: int = 64 << 10) -> subprocess.CompletedProcess[str]:
    """Runs a script in a process that can write no file above ``limit`` bytes: the kernel's own 'no more room'."""

    def limit_files() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    return subprocess.run(
        [sys.executable, "-c", work, str(folder)], preexec_fn=limit_files, capture_output=True, text=True, check=False
    )


def test_a_disk_that_takes_no_more_is_a_storage_error_and_leaves_nothing(home: Path) -> None:
    home.mkdir()
    work = (
        "import sys; from pathlib import Path; from edgelm.bundle.publish import publishing\n"
        "from edgelm.errors import StorageError\n"
        "try:\n"
        "    with publishing(Path(sys.argv[1]) / 'tiny') as folder:\n"
        "        (folder / 'weights').write_bytes(bytes(1 << 20))\n"
        "except StorageError as error:\n"
        "    print(error); sys.exit(error.exit_code)\n"
    )
    done = limited(work, home)
    assert (done.returncode, done.stderr) == (4, "")
    assert "tiny" in done.stdout
    assert names(home) == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs the device that is always full")
def test_no_space_left_is_a_storage_error(tmp_path: Path) -> None:
    with (
        pytest.raises(StorageError, match="tiny: No space left on device"),
        publishing(tmp_path / "tiny"),
        Path("/dev/full").open("wb", buffering=0) as full,
    ):
        full.write(b"x")
    assert names(tmp_path) == []


def test_a_full_disk_keeps_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_file_atomic(path, b"old")
    work = (
        "import sys; from pathlib import Path; from edgelm.bundle.publish import write_file_atomic\n"
        "from edgelm.errors import StorageError\n"
        "try:\n"
        "    write_file_atomic(Path(sys.argv[1]) / 'file', bytes(1 << 20))\n"
        "except StorageError as error:\n"
        "    sys.exit(error.exit_code)\n"
    )
    assert limited(work, tmp_path).returncode == 4
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["file"]


def test_a_target_below_a_file_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageError, match="file"):
        publish(tmp_path / "file" / "tiny", "x")
    with pytest.raises(StorageError, match="file"):
        write_file_atomic(tmp_path / "file" / "tiny", b"x")


def test_a_name_too_long_is_a_storage_error(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="too long"):
        publish(tmp_path / ("x" * 250), "x")


@pytest.mark.skipif(os.name != "posix", reason="modes are POSIX's")
def test_the_umask_does_not_lock_the_owner_out(tmp_path: Path) -> None:
    before = os.umask(0o777)
    try:
        publish(tmp_path / "new" / "tiny", "x")
        write_file_atomic(tmp_path / "new" / "stamp", b"x")
    finally:
        os.umask(before)
    assert (tmp_path / "new" / "stamp").stat().st_mode & 0o600 == 0o600
    assert (tmp_path / "new").stat().st_mode & 0o700 == 0o700
    assert (tmp_path / "new" / "tiny").stat().st_mode & 0o700 == 0o700
    assert (tmp_path / "new" / "tiny" / "edgelm.json").stat().st_mode & 0o600 == 0o600


def test_every_file_and_folder_is_brought_to_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "file").write_text("x")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    synced = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: synced.append(os.fstat(descriptor).st_ino))
    sync_tree(tmp_path)
    wanted = [tmp_path / "sub" / "file", tmp_path / "sub", tmp_path]
    assert synced == [path.stat().st_ino for path in wanted]


def test_a_dead_writers_lock_file_is_no_obstacle(tmp_path: Path) -> None:
    (tmp_path / ".tiny.edgelm-lock").write_bytes(b"")
    publish(tmp_path / "tiny", "x")
    assert names(tmp_path) == ["tiny"]
    with FileLock(tmp_path / ".tiny.edgelm-lock"):
        heal(tmp_path / "tiny", wait=False)


def test_waiting_for_a_writer_ends_with_it(tmp_path: Path) -> None:
    target = tmp_path / "tiny"
    ended = threading.Event()
    waiter = threading.Thread(target=lambda: [await_writer(target), ended.set()])
    with publishing(target) as folder:
        (folder / "edgelm.json").write_text("x")
        waiter.start()
        assert not ended.wait(0.15)
    assert ended.wait(10)
    waiter.join()
    assert names(tmp_path) == ["tiny"]
