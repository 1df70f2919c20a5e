import io
import json
import os
from pathlib import Path

import pytest
from support.bundles import WEIGHTS_NAME, seal, write_decoder_bundle

from edgelm.bundle import integrity
from edgelm.bundle.integrity import verify_files
from edgelm.bundle.manifest import MANIFEST_NAME, parse_manifest
from edgelm.bundle.regular_file import open_file
from edgelm.errors import IntegrityError, MemoryLimitError

LONG_AGO = 1_000_000_000


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A bundle whose files are old enough to be stamped."""
    folder = write_decoder_bundle(tmp_path / "bundle")
    for path in folder.iterdir():
        os.utime(path, (LONG_AGO, LONG_AGO))
    return folder


@pytest.fixture
def stamps(tmp_path: Path) -> Path:
    return tmp_path / "stamps"


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that were hashed, in order."""
    names: list[str] = []

    def record(folder: Path, name: str) -> io.BufferedReader:
        names.append(name)
        return open_file(folder, name)

    monkeypatch.setattr(integrity, "open_file", record)
    return names


def verify(folder: Path, stamps: Path | None = None) -> None:
    verify_files(folder, parse_manifest((folder / MANIFEST_NAME).read_bytes()), stamps=stamps)


def flip_bit(path: Path, at: int = -1) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def all_names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name != MANIFEST_NAME)


@pytest.mark.parametrize("name", [WEIGHTS_NAME, "tokenizer.json", "decoder.onnx"])
def test_one_byte_less_is_named_with_both_sizes(folder: Path, name: str) -> None:
    size = (folder / name).stat().st_size
    os.truncate(folder / name, size - 1)
    with pytest.raises(IntegrityError, match=f"{name} in .* has {size - 1} bytes, not the {size} of the manifest"):
        verify(folder)


@pytest.mark.parametrize("at", [0, 1000, -1])
def test_one_bit_flipped_is_named_with_both_hashes(folder: Path, at: int) -> None:
    right = parse_manifest((folder / MANIFEST_NAME).read_bytes()).files[WEIGHTS_NAME].sha256
    flip_bit(folder / WEIGHTS_NAME, at)
    with pytest.raises(IntegrityError) as caught:
        verify(folder)
    text = str(caught.value)
    assert text.startswith(f"{WEIGHTS_NAME} in {folder} has SHA-256 ")
    assert f"not the {right[:12]}… of the manifest" in text
    assert text.count("…") == 2


def test_a_missing_file_is_named(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    with pytest.raises(IntegrityError, match=r"^tokenizer\.json is missing in "):
        verify(folder)


@pytest.mark.parametrize("target", ["inside", "outside", "nowhere"])
def test_a_link_is_refused_wherever_it_leads(folder: Path, tmp_path: Path, target: str) -> None:
    path = folder / WEIGHTS_NAME
    place = {"inside": folder / "copy", "outside": tmp_path / "copy", "nowhere": tmp_path / "gone"}[target]
    path.rename(tmp_path / "copy" if target == "nowhere" else place)
    path.symlink_to(place)
    with pytest.raises(IntegrityError, match="is a symbolic link; a bundle's files must be its own"):
        verify(folder)


def test_a_folder_for_a_file_is_refused(folder: Path) -> None:
    (folder / WEIGHTS_NAME).unlink()
    (folder / WEIGHTS_NAME).mkdir()
    with pytest.raises(IntegrityError, match="is not a regular file"):
        verify(folder)


def test_files_that_the_manifest_does_not_list_are_not_read(folder: Path) -> None:
    (folder / "notes.txt").symlink_to("/nowhere")
    verify(folder)


def test_the_second_open_hashes_nothing(folder: Path, stamps: Path, hashed: list[str]) -> None:
    verify(folder, stamps)
    assert sorted(hashed) == all_names(folder)
    hashed.clear()
    verify(folder, stamps)
    assert hashed == []
    assert len(list(stamps.iterdir())) == 1


def test_without_stamps_every_open_hashes_all(folder: Path, hashed: list[str]) -> None:
    verify(folder)
    verify(folder)
    assert len(hashed) == 2 * len(all_names(folder))


def test_a_bit_flipped_after_the_stamp_is_found(folder: Path, stamps: Path) -> None:
    verify(folder, stamps)
    flip_bit(folder / WEIGHTS_NAME)
    with pytest.raises(IntegrityError, match="SHA-256"):
        verify(folder, stamps)
    with pytest.raises(IntegrityError, match="SHA-256"):
        verify(folder, stamps)


def test_a_file_put_in_its_place_with_the_same_time_is_hashed(folder: Path, stamps: Path, tmp_path: Path) -> None:
    verify(folder, stamps)
    other = tmp_path / "other"
    other.write_bytes((folder / WEIGHTS_NAME).read_bytes())
    flip_bit(other)
    os.utime(other, (LONG_AGO, LONG_AGO))
    other.replace(folder / WEIGHTS_NAME)
    with pytest.raises(IntegrityError, match="SHA-256"):
        verify(folder, stamps)


def test_only_what_changed_is_hashed_again(folder: Path, stamps: Path, hashed: list[str]) -> None:
    verify(folder, stamps)
    hashed.clear()
    os.utime(folder / "tokenizer.json", (LONG_AGO + 5, LONG_AGO + 5))
    verify(folder, stamps)
    assert hashed == ["tokenizer.json"]
    hashed.clear()
    verify(folder, stamps)
    assert hashed == []


def test_a_file_just_written_is_not_stamped(tmp_path: Path, stamps: Path, hashed: list[str]) -> None:
    folder = write_decoder_bundle(tmp_path / "fresh")
    verify(folder, stamps)
    verify(folder, stamps)
    assert len(hashed) == 2 * len(all_names(folder))


def test_a_changed_manifest_is_not_covered_by_old_stamps(folder: Path, stamps: Path) -> None:
    verify(folder, stamps)
    manifest = json.loads((folder / MANIFEST_NAME).read_bytes())
    manifest["files"][WEIGHTS_NAME]["sha256"] = "0" * 64
    (folder / MANIFEST_NAME).write_text(json.dumps(manifest))
    with pytest.raises(IntegrityError, match="not the 000000000000… of the manifest"):
        verify(folder, stamps)


def test_two_bundles_have_stamps_of_their_own(folder: Path, tmp_path: Path, stamps: Path) -> None:
    verify(folder, stamps)
    verify(write_decoder_bundle(tmp_path / "other"), stamps)
    os.utime(tmp_path / "other" / "config.json", (LONG_AGO, LONG_AGO))
    verify(tmp_path / "other", stamps)
    assert len(list(stamps.iterdir())) == 2


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"\xff",
        b"[" * 100_000,
        b'{"version": 0, "files": {}}',
        b'{"version": 1}',
        b'{"version": 1, "files": 3}',
        b'{"version": 1, "files": {"decoder.onnx.data": "yes"}}',
    ],
)
def test_a_damaged_stamp_is_done_again(folder: Path, stamps: Path, hashed: list[str], content: bytes) -> None:
    verify(folder, stamps)
    stamp = next(stamps.iterdir())
    good = stamp.read_bytes()
    stamp.write_bytes(content)
    hashed.clear()
    verify(folder, stamps)
    assert sorted(hashed) == all_names(folder)
    assert stamp.read_bytes() == good


def test_a_stamp_that_leads_elsewhere_is_not_followed(folder: Path, stamps: Path, tmp_path: Path) -> None:
    verify(folder, stamps)
    stamp = next(stamps.iterdir())
    stamp.rename(tmp_path / "good.json")
    stamp.symlink_to(tmp_path / "good.json")
    verify(folder, stamps)
    assert not stamp.is_symlink()


def test_stamps_that_cannot_be_written_are_done_without(folder: Path, tmp_path: Path, hashed: list[str]) -> None:
    blocked = tmp_path / "a file"
    blocked.write_text("")
    for _ in range(2):
        verify(folder, blocked)
        verify(folder, blocked / "below")
    assert len(hashed) == 4 * len(all_names(folder))
    assert blocked.read_text() == ""


@pytest.mark.skipif(getattr(os, "geteuid", lambda: 0)() == 0, reason="root may write anywhere")
def test_a_read_only_stamp_folder_is_done_without(folder: Path, stamps: Path, hashed: list[str]) -> None:
    stamps.mkdir(mode=0o500)
    verify(folder, stamps)
    verify(folder, stamps)
    assert len(hashed) == 2 * len(all_names(folder))


def test_a_bundle_sealed_anew_is_right_again(folder: Path, stamps: Path) -> None:
    verify(folder, stamps)
    flip_bit(folder / WEIGHTS_NAME)
    verify(seal(folder), stamps)


def test_whoever_asks_is_told_before_a_file_is_hashed(folder: Path, stamps: Path, hashed: list[str]) -> None:
    manifest = parse_manifest((folder / MANIFEST_NAME).read_bytes())

    def refuse(told: object) -> None:
        assert told is manifest
        assert hashed == []
        raise MemoryLimitError("too large")

    with pytest.raises(MemoryLimitError, match="too large"):
        verify_files(folder, manifest, stamps=stamps, before_hashing=refuse)
    assert hashed == []
    verify(folder, stamps)
    assert sorted(hashed) == all_names(folder)
    verify_files(folder, manifest, stamps=stamps, before_hashing=refuse)  # nothing is hashed, and nobody asked
