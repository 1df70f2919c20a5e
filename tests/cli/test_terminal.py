"""Progress, colour and interrupts: what a terminal sees and a pipe does not."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support.command_line import ROOT
from support.terminal import INTERRUPT, Terminal

from edgelm.cli import progress_bar
from edgelm.cli.interrupt import GRACE_SECONDS, prompt_exit
from edgelm.cli.progress_bar import PlainProgress, ProgressBar, shown_progress

needs_terminal = pytest.mark.skipif(sys.platform == "win32", reason="has no pseudo-terminals")


def test_plain_progress_is_one_line_a_stage(capsys: pytest.CaptureFixture[str]) -> None:
    with shown_progress() as progress:
        assert isinstance(progress, PlainProgress)
        for label, total in (("downloading x", 93_000_000), ("Converting", None), ("Measuring", 2048)):
            progress.start(label, total)
            progress.advance(10)
            progress.finish()
    assert capsys.readouterr().err == "downloading x (93 MB)\nConverting\nMeasuring\n"


def test_the_bar(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress_bar, "_REDRAW_SECONDS", 0.0)
    bar = ProgressBar()
    bar.start("downloading", 10_000_000)
    for _ in range(3):
        bar.advance(5_000_000)  # more than was announced
    bar.finish()
    drawn = capsys.readouterr().err
    assert [f"{share}%" in drawn for share in (0, 50, 100)] == [True] * 3
    assert "150%" not in drawn
    assert drawn.split("\r")[-1].startswith("downloading (15 MB) in ")
    assert drawn.endswith("\n")


def test_the_bar_is_narrower_than_the_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    bar = ProgressBar()
    bar.start("a label that is far too long for a window so narrow", 10)
    bar.finish()
    assert all(len(line.removesuffix("\x1b[K")) < 40 for line in capsys.readouterr().err.strip().split("\r"))


def test_a_bar_that_breaks_off_ends_its_line(capsys: pytest.CaptureFixture[str]) -> None:
    bar = ProgressBar()
    bar.start("downloading", None)
    bar.abandon()
    bar.abandon()
    drawn = capsys.readouterr().err
    assert drawn.count("\n") == 1
    assert drawn.endswith("\n")


@needs_terminal
@pytest.mark.parametrize(("no_color", "coloured"), [("", True), ("1", False)])
def test_colour(home: Path, monkeypatch: pytest.MonkeyPatch, no_color: str, coloured: bool) -> None:
    monkeypatch.setenv("NO_COLOR", no_color)
    with Terminal("run", "nope", "hello") as terminal:
        assert terminal.end() == 2
    assert ("\x1b[31m" in terminal.shown) is coloured


@needs_terminal
def test_a_terminal_is_asked_for_a_prompt(home: Path) -> None:
    with Terminal("run", "tiny") as terminal:
        assert terminal.end() == 2
    assert "there is no prompt" in terminal.shown


@needs_terminal
def test_rm_asks(home: Path) -> None:
    with Terminal("rm", "tiny") as terminal:
        terminal.wait_for("delete tiny? [y/N]")
        terminal.type("n\n")
        assert terminal.end() == 0
    assert (home / "models" / "tiny").exists()
    with Terminal("rm", "tiny") as terminal:
        terminal.wait_for("delete tiny? [y/N]")
        terminal.until_it_reads()
        terminal.type(INTERRUPT)
        assert terminal.end() == 130
    with Terminal("rm", "--yes", "tiny") as terminal:
        assert terminal.end() == 0
    assert not (home / "models" / "tiny").exists()


def test_an_interrupt_gets_through_native_code() -> None:
    # One long call that Python cannot interrupt, as loading a large graph is.
    code = (
        "import hashlib\n"
        "from edgelm.cli.interrupt import prompt_exit\n"
        "with prompt_exit():\n"
        "    print('go', flush=True)\n"
        "    hashlib.pbkdf2_hmac('sha256', b'', b'', 10 ** 8)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE) as running:
        assert running.stdout is not None
        assert running.stdout.readline() == b"go\n"
        time.sleep(0.3)  # by then it is in the call
        running.send_signal(signal.SIGINT)
        pressed = time.monotonic()
        assert running.wait(5) == 130
    assert time.monotonic() - pressed < 1


def test_the_usual_way_out_of_an_interrupt_is_left_alone() -> None:
    with pytest.raises(KeyboardInterrupt), prompt_exit():
        signal.raise_signal(signal.SIGINT)
    time.sleep(GRACE_SECONDS + 0.1)  # the process would be gone by now
    assert signal.set_wakeup_fd(-1) == -1
