"""What is remembered of bundles that were made or opened here."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from support.bundles import decoder_manifest

from edgelm.bundle import opened
from edgelm.bundle.manifest import FileEntry, Manifest
from edgelm.bundle.opened import is_known, remember

HASHED = replace(decoder_manifest(), files={"decoder.onnx": FileEntry(3, "a" * 64)})
# As of a folder of another tool, which says no hashes.
FOREIGN = replace(HASHED, layout="optimum", files={"decoder.onnx": FileEntry(3, "")})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "bundle"
    made.mkdir()
    (made / "decoder.onnx").write_bytes(b"abc")
    return made


@pytest.fixture
def stamps(tmp_path: Path) -> Path:
    return tmp_path / "home" / "stamps"


@pytest.fixture(autouse=True)
def forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opened, "_HERE", set())


def in_another_process(monkeypatch: pytest.MonkeyPatch, folder: Path, manifest: Manifest, stamps: Path) -> bool:
    monkeypatch.setattr(opened, "_HERE", set())
    return is_known(folder, manifest, stamps=stamps)


@pytest.mark.parametrize("manifest", [HASHED, FOREIGN], ids=["ours", "another tool's"])
def test_it_is_known_once_it_was_remembered(
    folder: Path, stamps: Path, manifest: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not is_known(folder, manifest, stamps=stamps)
    remember(folder, manifest, stamps=stamps)
    assert is_known(folder, manifest, stamps=None)
    assert in_another_process(monkeypatch, folder, manifest, stamps)
    assert not in_another_process(monkeypatch, folder, replace(manifest, name="other"), stamps)


def test_a_bundle_is_known_by_its_hashes_wherever_it_lies(folder: Path, stamps: Path) -> None:
    remember(folder, HASHED, stamps=stamps)
    moved = folder.rename(folder.with_name("moved"))
    assert is_known(moved, HASHED, stamps=stamps)
    other = replace(HASHED, files={"decoder.onnx": FileEntry(3, "b" * 64)})
    assert not is_known(moved, other, stamps=stamps)


def test_a_folder_without_hashes_is_known_by_its_place_and_its_files(folder: Path, stamps: Path) -> None:
    remember(folder, FOREIGN, stamps=stamps)
    copy = shutil.copytree(folder, folder.with_name("copy"))
    assert not is_known(copy, FOREIGN, stamps=stamps)
    (folder / "decoder.onnx").write_bytes(b"abd!")
    assert not is_known(folder, FOREIGN, stamps=stamps)
    (folder / "decoder.onnx").unlink()
    assert not is_known(folder, FOREIGN, stamps=stamps)


@pytest.mark.parametrize("damage", [b"", b"{}", None])
def test_a_damaged_record_is_none(
    folder: Path, stamps: Path, damage: bytes | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    remember(folder, HASHED, stamps=stamps)
    (record,) = stamps.iterdir()
    if damage is None:
        record.unlink()
        record.symlink_to(folder / "decoder.onnx")
    else:
        record.write_bytes(damage)
    assert not in_another_process(monkeypatch, folder, HASHED, stamps)


def test_where_nothing_can_be_written_it_is_known_for_the_rest_of_the_process(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    remember(folder, HASHED, stamps=tmp_path / "file" / "stamps")
    assert is_known(folder, HASHED, stamps=tmp_path / "file" / "stamps")
