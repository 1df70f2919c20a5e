"""What is written at the end is refused at the beginning where it could not be, before a model is looked for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

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
