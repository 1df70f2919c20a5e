"""Prompts that are missing, empty or without their quotes: refused before a model is loaded, with a remedy."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result
from support.command_line import edgelm

Invoke = Callable[..., Result]


@pytest.mark.parametrize("prompt", ["", "   ", "\n\t"])
def test_an_empty_prompt_is_refused(invoke: Invoke, prompt: str) -> None:
    for done in (invoke("run", "tiny", prompt), invoke("run", "tiny", "-", stdin=f"{prompt}\n")):
        assert (done.exit_code, done.stdout) == (2, "")
        assert "the prompt is empty; write one, or have the model begin a text with --raw" in done.stderr


def test_raw_begins_a_text_or_goes_on_with_blanks(invoke: Invoke) -> None:
    begun = json.loads(invoke("run", "tiny", "--raw", "--json", "").stdout)
    assert begun["usage"]["prompt_tokens"] == 1
    blanks = json.loads(invoke("run", "tiny", "--raw", "--json", "   ").stdout)
    assert blanks["usage"]["prompt_tokens"] == 3


def test_what_is_piped_in_is_prompt_enough(home: Path) -> None:
    done = edgelm("run", "tiny", "", input=b"hello")
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.parametrize("command", ["run", "summarize"])
def test_a_prompt_without_quotes(invoke: Invoke, command: str) -> None:
    done = invoke(command, "not-there", "What", "is", "the", "capital", "--json")
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr == (
        "edgelm: error: unexpected argument 'is': put a text of several words in quotes "
        f"(see: edgelm {command} --help)\n"
    )
