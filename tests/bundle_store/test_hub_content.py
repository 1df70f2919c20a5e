from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from edgelm.bundle.hub_content import ListedFile, bytes_to_come, check_cached, check_content
from edgelm.bundle.progress import NoProgress
from edgelm.errors import IntegrityError

OTHER = "0" * 40


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A repository's folder in a hub's cache, behind a link."""
    (tmp_path / "disk/models--org--name/blobs").mkdir(parents=True)
    (tmp_path / "disk/models--org--name/snapshots/commit").mkdir(parents=True)
    (tmp_path / "hub").symlink_to(tmp_path / "disk")
    return tmp_path / "hub/models--org--name"


def refused(repository: Path, name: str) -> None:
    with pytest.raises(IntegrityError, match=f"{name} of hf:org/name .* it was removed"):
        check_content(repository / "snapshots/commit", {name: ListedFile(1, None, OTHER)}, "hf:org/name", NoProgress())


def test_a_file_is_removed_with_its_blob(repository: Path) -> None:
    (repository / "blobs/a").write_bytes(b"x")
    (repository / "snapshots/commit/config.json").symlink_to("../../blobs/a")
    refused(repository, "config.json")
    assert [path for path in repository.rglob("*") if not path.is_dir()] == []


def test_a_file_without_a_blob_is_removed(repository: Path) -> None:
    (repository / "snapshots/commit/config.json").write_bytes(b"x")
    refused(repository, "config.json")
    assert [path for path in repository.rglob("*") if not path.is_dir()] == []


@pytest.mark.parametrize("linked", ["1_x/config.json", "1_x"])
def test_what_lies_outside_the_repositorys_folder_stays(repository: Path, tmp_path: Path, linked: str) -> None:
    own = tmp_path / "own/1_x/config.json"
    own.parent.mkdir(parents=True)
    own.write_bytes(b"x")
    link = repository / "snapshots/commit" / linked
    link.parent.mkdir(exist_ok=True)
    link.symlink_to(tmp_path / "own" / linked)
    refused(repository, "1_x/config.json")
    assert own.read_bytes() == b"x"


def test_what_is_in_the_cache_or_has_begun_to_come_needs_no_room(repository: Path) -> None:
    files = {"config.json": ListedFile(3, None, OTHER), "a.safetensors": ListedFile(1000, "1" * 64, "2" * 40)}
    files |= {"b.safetensors": ListedFile(500, "3" * 64, "4" * 40), "unknown.json": ListedFile()}
    assert bytes_to_come(repository / "missing", "commit", files) == 1503
    assert bytes_to_come(repository, "commit", {**files, "the same as a": files["a.safetensors"]}) == 1503
    (repository / "snapshots/commit/config.json").write_bytes(b"abc")
    assert bytes_to_come(repository, "commit", files) == 1500
    assert bytes_to_come(repository, "another", files) == 1503
    (repository / "blobs" / ("3" * 64)).write_bytes(b"b")
    assert bytes_to_come(repository, "commit", files) == 1000
    (repository / "blobs" / f"{'1' * 64}.incomplete").write_bytes(bytes(400))
    assert bytes_to_come(repository, "commit", files) == 600
    (repository / "blobs" / "left behind.incomplete").write_bytes(bytes(700))
    assert bytes_to_come(repository, "commit", files) == 0


@pytest.mark.parametrize("blob", [hashlib.sha1(b"x").hexdigest(), hashlib.md5(b"y").hexdigest(), "a-12"])
def test_blobs_with_names_of_another_kind_are_taken(repository: Path, blob: str) -> None:
    (repository / "blobs" / blob).write_bytes(b"x")
    (repository / "snapshots/commit/config.json").symlink_to(f"../../blobs/{blob}")
    check_cached(repository / "snapshots/commit", ["config.json"], "hf:org/name", NoProgress())


def test_files_without_blobs_are_taken(repository: Path) -> None:
    (repository / "snapshots/commit/config.json").write_bytes(b"x")
    (repository / "snapshots/commit" / OTHER).write_bytes(b"x")
    check_cached(repository / "snapshots/commit", ["config.json", OTHER], "hf:org/name", NoProgress())
