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


@pytest.mark.parametrize("command", [("run", "--json", "-n", "3"), ("explain", "--json", "-n", "2")])
def test_a_file_beside_a_prompt_is_its_context(invoke: Invoke, tmp_path: Path, command: tuple[str, ...]) -> None:
    letter = tmp_path / "letter.txt"
    letter.write_text("Dear all\n")

    def told(*arguments: str, stdin: str = "") -> object:
        done = invoke(command[0], "tiny", *command[1:], *arguments, stdin=stdin)
        assert done.exit_code == 0, done.stderr
        answer = json.loads(done.stdout)
        return answer["usage"]["prompt_tokens"] if command[0] == "run" else answer

    piped = told("hello", stdin="Dear all\n")
    assert told("hello", "-f", str(letter)) == piped
    assert told("-p", "hello", "-f", str(letter)) == piped
    assert told("hello", "-f", "-", stdin="Dear all\n") == piped
    assert told("-", "-f", str(letter), stdin="hello\n") == piped
    letter.write_text(" \n")
    assert told("hello", "-f", str(letter)) == told("hello")


def test_one_context_and_one_prompt(invoke: Invoke, tmp_path: Path) -> None:
    letter = tmp_path / "letter.txt"
    letter.write_text("Dear all\n")
    for arguments, stdin, words in (
        (("hello", "-f", str(letter)), "piped", "a file and standard input: its context is one of them"),
        (("hello", "-p", "hi", "-f", str(letter)), "", "the prompt is given more than once"),
        (("-", "-f", "-"), "piped", "standard input (-) is either the prompt or the file"),
    ):
        done = invoke("run", "tiny", *arguments, stdin=stdin)
        assert (done.exit_code, done.stdout) == (2, "")
        assert words in done.stderr


@pytest.mark.parametrize(
    ("flags", "window", "ways"),
    [
        ((), 64, "--overflow sink lets it slide\n"),
        (("-c", "50"), 50, "--ctx-size makes it longer, up to 64; --overflow sink lets it slide\n"),
    ],
)
def test_a_prompt_that_is_too_long_is_told_the_ways_on(
    invoke: Invoke, flags: tuple[str, ...], window: int, ways: str
) -> None:
    """Only those that help: fewer tokens of the answer do not."""
    done = invoke("run", "tiny", "a" * 70, "-n", "5", *flags)
    assert (done.exit_code, done.stdout) == (2, "")
    told = f"but the context window is {window} tokens, and the answer needs at least one of them; {ways}"
    assert done.stderr.endswith(told)


@pytest.mark.parametrize("arguments", [("explain", "tiny", "--given", ""), ("attention", "tiny", "")])
def test_an_empty_text_is_refused(invoke: Invoke, arguments: tuple[str, ...]) -> None:
    done = invoke(*arguments)
    assert (done.exit_code, done.stdout) == (2, "")
    assert "the text is empty" in done.stderr


ENDLESS = ("--set", "eos_token_id=[]", "--verbose")


def test_what_cut_an_answer_is_told(invoke: Invoke, endless: str) -> None:
    by_length = invoke("run", "tiny", "a", "-n", "3", *ENDLESS, "--max-time", "1000")
    assert by_length.stderr.splitlines()[-1] == "(the answer was cut after 3 tokens by its limit of tokens)"
    by_time = invoke("run", endless, "a", "-n", "50000", *ENDLESS, "--max-time", "0.05")
    assert by_time.stderr.splitlines()[-1].endswith("tokens by --max-time)")
