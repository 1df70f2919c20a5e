"""What is written at the end is refused at the beginning where it could not be, before a model is looked for."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from edgelm.cli.output_file import write_output
from edgelm.errors import StorageError

Invoke = Callable[..., Result]

WRITERS = (
    ("compare", "-p", "a", "--html"),
    ("compare", "-p", "a", "--csv"),
    ("explain", "a", "--html"),
    ("attention", "a", "--html"),
    ("attention", "a", "--png"),
    ("run", "a", "--record"),
    ("run", "a", "--prompt-cache"),
    ("chat", "--prompt-cache"),
)


@pytest.mark.parametrize("writer", WRITERS, ids=" ".join)
def test_a_folder_that_is_not_there(invoke: Invoke, tmp_path: Path, writer: tuple[str, ...]) -> None:
    folder = tmp_path / "none"
    done = invoke(writer[0], "not-a-model", *writer[1:], str(folder / "x.png"))
    assert (done.exit_code, done.stdout) == (2, "")
    assert f"'{writer[-1]}': there is no folder '{folder}' to write x.png into; make it first" in done.stderr
    assert not folder.exists()


@pytest.mark.parametrize("writer", WRITERS, ids=" ".join)
def test_the_folder_of_a_user_who_is_not_there(invoke: Invoke, writer: tuple[str, ...]) -> None:
    done = invoke(writer[0], "not-a-model", *writer[1:], "~no-such-user/x.png")
    assert (done.exit_code, done.stdout) == (2, "")
    assert "there is no folder '~no-such-user' to write x.png into" in done.stderr


@pytest.mark.parametrize("writer", WRITERS, ids=" ".join)
def test_a_folder_is_no_file(invoke: Invoke, tmp_path: Path, writer: tuple[str, ...]) -> None:
    done = invoke(writer[0], "not-a-model", *writer[1:], str(tmp_path))
    assert done.exit_code == 2
    assert f"{tmp_path} is a folder; name a file in it" in done.stderr


def test_a_picture_is_named_as_one(invoke: Invoke, tmp_path: Path) -> None:
    done = invoke("attention", "not-a-model", "a", "--png", str(tmp_path / "x.jpg"))
    assert done.exit_code == 2
    assert "x.jpg must end in .png" in done.stderr


def test_a_conversation_is_not_lost_to_a_tilde(invoke: Invoke) -> None:
    done = invoke("chat", "tiny", stdin="/save ~no-such-user/talk\n/help\n")
    assert "there is no folder '~no-such-user'" in done.stderr
    assert "unexpected" not in done.stderr


def test_a_conversation_makes_no_folder(invoke: Invoke, tmp_path: Path) -> None:
    done = invoke("chat", "tiny", stdin=f"/save {tmp_path / 'none' / 'talk'}\n")
    assert done.exit_code == 2
    assert "there is no folder" in done.stderr
    assert not (tmp_path / "none").exists()


def test_a_file_that_is_replaced_stays_whole_where_the_disk_is_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "page.html"
    write_output(page, b"old")
    assert capsys.readouterr().err == f"wrote {page}\n"

    def full(path: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr("edgelm.bundle.publish.sync_file", full)
    with pytest.raises(StorageError, match="No space left on device"):
        write_output(page, b"new")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"page.html": b"old"}
    assert capsys.readouterr().err == ""


def test_links_and_devices_stay(tmp_path: Path) -> None:
    link, page = tmp_path / "link", tmp_path / "page.html"
    page.write_bytes(b"old")
    link.symlink_to(page)
    write_output(link, b"new")
    assert link.is_symlink()
    assert page.read_bytes() == b"new"
    if Path("/dev/full").exists():
        link.unlink()
        link.symlink_to("/dev/full")
        for device in (link, Path("/dev/full")):
            with pytest.raises(StorageError, match="No space left on device"):
                write_output(device, b"new")
        assert not Path("/dev/full").is_file()
