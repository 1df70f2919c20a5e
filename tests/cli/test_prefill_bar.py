"""A prompt that takes long to read is shown on a terminal, and on none but that."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

import edgelm
from edgelm.cli import answers, console


@pytest.mark.parametrize("is_terminal", [True, False])
def test_a_long_prompt_shows_its_progress(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], is_terminal: bool
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(console, "is_terminal", lambda stream: is_terminal)
    monkeypatch.setattr(answers, "PATIENCE_SECONDS", 0.0)
    drawn = threading.Event()
    draw = console.draw

    def seen(text: str) -> None:
        draw(text)
        drawn.set()

    def slow(ids: Any, logits: Any) -> Any:
        drawn.wait(5 if is_terminal else 0)
        return logits

    monkeypatch.setattr(console, "draw", seen)
    with edgelm.load("tiny") as lm, lm.stream("a" * 30, max_new_tokens=4, logits_processor=slow) as stream:
        assert stream.prompt_progress == (0, 30)
        answers.print_stream(stream)
        assert stream.prompt_progress is not None
        assert stream.prompt_progress[1] == 30
    shown = capsys.readouterr()
    assert ("Reading the prompt" in shown.err) is is_terminal
    assert shown.out == stream.result.text + "\n" * (not stream.result.text.endswith("\n"))
