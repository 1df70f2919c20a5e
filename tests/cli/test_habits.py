"""Habits from other programs: understood, or refused with the way that it is done here."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

Invoke = Callable[..., Result]
SETTINGS = ("-n", "12", "--min-new-tokens", "12")


def test_a_temperature_of_0_is_greedy(invoke: Invoke) -> None:
    def answer(*flags: str) -> tuple[str, str]:
        done = invoke("run", "tiny", "hello", *SETTINGS, *flags)
        return done.stdout, done.stderr

    greedy = answer("--greedy")
    assert answer("--temp", "0") == greedy
    assert answer("--temperature", "0.0", "--do-sample", "--seed", "1") == greedy
    assert answer("--set", "temperature=0") == greedy
    assert answer("--temperature", "50", "--seed", "1") != greedy


def test_a_temperature_of_0_in_a_conversation(invoke: Invoke) -> None:
    done = invoke("chat", "tiny", stdin="/set temperature 0.7\n/set temperature 0\n/set temperature 0.7\n")
    assert done.stderr.splitlines() == [
        "temperature = 0.7 (sampling)",
        "temperature = 0.0 (greedy)",
        "temperature = 0.7 (sampling)",
    ]


@pytest.mark.parametrize("word", ["/bye", "/exit", "/quit"])
def test_ways_to_leave(invoke: Invoke, word: str) -> None:
    done = invoke("chat", "tiny", stdin=f"{word}\n/nonsense\n")
    assert (done.exit_code, done.stdout, done.stderr) == (0, "", "")


def test_a_mistake_in_a_pipe_names_its_line(invoke: Invoke) -> None:
    done = invoke("chat", "tiny", *SETTINGS, stdin='hello\n\n"""two\nlines"""\n/nonsense\nmore\n')
    assert done.exit_code == 2
    assert "edgelm: error: line 5: there is no command '/nonsense'" in done.stderr
    too_long = invoke("chat", "tiny", stdin="\n" + "a" * 100 + "\n")
    assert too_long.exit_code == 2
    assert "edgelm: error: line 2: the prompt has 101 tokens" in too_long.stderr


def test_the_limit_that_holds_is_shown(invoke: Invoke) -> None:
    def shown(*lines: str) -> list[str]:
        said = invoke("chat", "tiny", stdin="\n".join([*lines, "/show"])).stderr
        return next(line.split() for line in said.splitlines() if line.startswith("max_new_tokens  "))

    assert shown() == ["max_new_tokens", "32"]
    assert shown("/set max_length 60") == ["max_new_tokens", "None"]


def test_what_is_saved_over_is_told(invoke: Invoke, tmp_path: Path) -> None:
    file = tmp_path / "talk.json"
    done = invoke("chat", "tiny", stdin=f"/save {file}\n/save {file}\n")
    assert done.stderr.splitlines() == [f"saved to {file}", f"replaced the conversation in {file}"]


@pytest.mark.parametrize("size", ["400", "0.4e3", "999999"])
def test_a_size_without_its_unit(invoke: Invoke, size: str) -> None:
    done = invoke("run", "tiny", "hello", "--max-memory", size)
    assert done.exit_code == 2
    assert f"'{size}' is {int(float(size))} bytes; did you mean {int(float(size))}MB?" in done.stderr


@pytest.mark.parametrize("name", ["TINY", "tiny:latest", "Tiny:135m"])
@pytest.mark.parametrize("command", ["run", "show", "pull"])
def test_another_spelling_of_a_name(invoke: Invoke, command: str, name: str) -> None:
    done = invoke(command, name, *(["hello"] if command == "run" else []))
    assert (done.exit_code, done.stdout) == (2, "")
    assert f"there is no model '{name}'; did you mean tiny?" in done.stderr


def test_only_names_that_are_listed_are_suggested(invoke: Invoke) -> None:
    listed = {entry["name"] for entry in json.loads(invoke("list", "--all", "--json").stdout)}
    for name in ("smollm", "smolm2", "SmolLM2-135M", "bert", "gpt", "distil"):
        said = invoke("show", name).stderr
        if "did you mean" in said:
            named = said.rsplit("did you mean ", 1)[1].rstrip("?\n").split(" or ")
            assert set(named) <= listed


def test_a_checkpoint_is_shown_its_way(invoke: Invoke, tmp_path: Path) -> None:
    file = tmp_path / "model.gguf"
    file.write_bytes(b"GGUF")
    done = invoke("show", str(file))
    assert done.exit_code == 2
    assert "is no bundle; if it is a checkpoint, convert it first: edgelm export" in done.stderr


def test_missing_tools_are_told_before_a_download_is_announced(invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name == "onnx" or name.startswith("edgelm_tools")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "onnx", None)
    done = invoke("pull", "smollm2")
    assert done.exit_code == 2
    assert done.stderr.startswith("edgelm: error: converting a model needs onnx, which is not installed; install")
    assert "pip install 'edgelm[tools]', or in a clone: pip install '.[tools]'" in done.stderr
