"""``edgelm run --record`` and ``edgelm replay``."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result
from support.bundles import TinyDecoder, write_decoder_bundle

Invoke = Callable[..., Result]
SAMPLING = ("--temperature", "3", "-n", "12", "--min-new-tokens", "12")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "my 🦙 story.json"


@pytest.fixture
def other(home: Path) -> str:
    """Another model of the same sizes."""
    write_decoder_bundle(home / "models" / "other", TinyDecoder(seed=9), name="other")
    return "other"


def test_record_and_replay(invoke: Invoke, file: Path) -> None:
    said = invoke("run", "tiny", "hello", *SAMPLING, "--record", str(file))
    assert (said.exit_code, said.stderr) == (0, "")
    values = json.loads(file.read_text(encoding="utf-8"))
    assert said.stdout == values["output"]["text"] + "\n"
    assert isinstance(values["config"]["seed"], int)
    result = invoke("replay", str(file))
    assert (result.exit_code, result.stdout) == (0, "identical: 12 tokens\n")
    assert result.stderr == "replaying 12 tokens with tiny\n"


def test_the_seed_of_a_recording_gives_the_same_answer_to_run(invoke: Invoke, file: Path) -> None:
    said = invoke("run", "tiny", "hello", *SAMPLING, "--record", str(file)).stdout
    seed = json.loads(file.read_text(encoding="utf-8"))["config"]["seed"]
    assert invoke("run", "tiny", "hello", *SAMPLING, "--seed", str(seed)).stdout == said


def test_as_json(invoke: Invoke, file: Path) -> None:
    fields = json.loads(invoke("run", "tiny", "hello", "--raw", "-n", "4", "--json", "--record", str(file)).stdout)
    assert json.loads(file.read_text(encoding="utf-8"))["output"]["ids"] == fields["tokens"]
    again = json.loads(invoke("replay", str(file), "--json").stdout)
    assert again == {
        "model": "tiny",
        "identical": True,
        "tokens": len(fields["tokens"]),
        "parting": None,
        "differences": {},
    }


def test_another_model_parts(invoke: Invoke, file: Path, other: str) -> None:
    invoke("run", "tiny", "hello", "-n", "12", "--min-new-tokens", "12", "--record", str(file))
    result = invoke("replay", str(file), "--model", other)
    assert result.exit_code == 1
    assert result.stdout.startswith("parted at token ")
    assert "the two likeliest are" in result.stdout
    assert result.stderr == "replaying 12 tokens with other\n"
    assert not json.loads(invoke("replay", str(file), "-m", other, "--json").stdout)["identical"]


def test_the_model_is_found_by_its_hash(invoke: Invoke, file: Path, other: str, home: Path) -> None:
    invoke("run", "tiny", "hello", "-n", "4", "--record", str(file))
    (home / "models" / "tiny").rename(home / "models" / "renamed")
    result = invoke("replay", str(file))
    assert (result.exit_code, result.stdout.split(":")[0]) == (0, "identical")
    (home / "models" / "renamed").rename(home / "elsewhere")
    missing = invoke("replay", str(file))
    assert (missing.exit_code, missing.stdout) == (2, "")
    assert "tiny, which was recorded, is not installed (manifest " in missing.stderr
    write_decoder_bundle(home / "models" / "tiny", TinyDecoder(seed=4))
    changed = invoke("replay", str(file))
    assert changed.exit_code == 2
    assert "tiny is installed, but is not the model that was recorded (manifest " in changed.stderr
    assert "--model MODEL runs another" in changed.stderr
    moved = invoke("replay", str(file), "--model", str(home / "elsewhere"))
    assert (moved.exit_code, moved.stdout.split(":")[0]) == (0, "identical")


def test_the_context_window_and_threads_are_the_recorded_ones(invoke: Invoke, file: Path) -> None:
    invoke("run", "tiny", "hello", "-c", "20", "-t", "1", "--record", str(file))
    assert json.loads(file.read_text(encoding="utf-8"))["runtime"]["context_length"] == 20
    assert invoke("replay", str(file)).stderr.count("\n") == 1
    told = invoke("replay", str(file), "-t", "2")
    assert told.exit_code == 0
    assert told.stderr.splitlines()[-1] == "threads: 1 then, 2 now"


def test_what_cannot_be_recorded(invoke: Invoke, tmp_path: Path, file: Path) -> None:
    thesis = tmp_path / "thesis.txt"
    thesis.write_text("years of work")
    for arguments, words in (
        (("--record", str(thesis)), "exists and is no replay; choose another name"),
        (("--record", str(file), "--draft", "tiny"), "--record goes without --draft"),
        (("--record", str(file), "--tools", "tools.json"), "tools.json: No such file"),
        (("--record", str(file), "--prompt-cache", str(tmp_path / "kv")), "--record goes without --prompt-cache"),
    ):
        result = invoke("run", "tiny", "hello", *arguments)
        assert (result.exit_code, result.stdout) == (2, ""), arguments
        assert words in result.stderr
    assert thesis.read_text() == "years of work"
    assert not file.exists()


def test_a_replay_is_overwritten_by_another(invoke: Invoke, file: Path) -> None:
    for prompt in ("hello", "good day"):
        assert invoke("run", "tiny", prompt, "-n", "3", "--record", str(file)).exit_code == 0
    assert len(json.loads(file.read_text(encoding="utf-8"))["prompt"]["ids"]) == len("good day.")


def test_an_empty_file_and_a_device_are_recorded_into(invoke: Invoke, file: Path) -> None:
    file.touch()
    for target in (str(file), os.devnull):
        result = invoke("run", "tiny", "hello", "-n", "3", "--record", target)
        assert (result.exit_code, result.stderr) == (0, ""), target
    assert len(json.loads(file.read_text(encoding="utf-8"))["output"]["ids"]) == 3
    assert not Path(os.devnull).is_file()


def test_files_that_are_none(invoke: Invoke, tmp_path: Path) -> None:
    broken = tmp_path / "broken.json"
    broken.write_text('{"format": 1}')
    for name, words in ((str(broken), "model is missing"), (str(tmp_path / "none"), "No such file")):
        result = invoke("replay", name)
        assert (result.exit_code, result.stdout) == (2, "")
        assert words in result.stderr
        assert result.stderr.count("\n") == 1
