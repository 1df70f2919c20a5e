"""The flags that hold an answer to a form, on ``run`` and ``chat``."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result
from support.bundles import TinyDecoder, write_decoder_bundle
from support.scripted_bundle import VOCAB_SIZE, byte_tokenizer

pytest.importorskip("llguidance")

Invoke = Callable[..., Result]


@pytest.fixture
def model(home: Path) -> str:
    """A model with random weights and a token for every byte."""
    files = {"tokenizer.json": byte_tokenizer().to_str().encode()}
    write_decoder_bundle(home / "models" / "bytes", TinyDecoder(vocab_size=VOCAB_SIZE), files=files, name="bytes")
    return "bytes"


def answer(result: Result) -> str:
    assert (result.exit_code, result.stderr) == (0, "")
    return result.stdout.removesuffix("\n")


def refusal(result: Result) -> str:
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.count("\n") == 1
    return result.stderr.removeprefix("edgelm: error: ").rstrip()


SCHEMA = {"type": "object", "properties": {"a": {"enum": [1, 2]}}, "required": ["a"], "additionalProperties": False}


def test_json_of_a_schema_that_is_given_or_in_a_file(invoke: Invoke, model: str, tmp_path: Path) -> None:
    file = tmp_path / "schéma.json"
    file.write_text(json.dumps(SCHEMA))
    for given in (json.dumps(SCHEMA), f" \n{json.dumps(SCHEMA)}", str(file)):
        assert answer(invoke("run", model, "--json-schema", given, "hello")) in ('{"a": 1}', '{"a": 2}')
    text = answer(invoke("run", model, "--json-schema", "{}", "-n", "20", "hello"))
    assert text.startswith("{")


def test_expressions_grammars_and_choices(invoke: Invoke, model: str, tmp_path: Path) -> None:
    file = tmp_path / "sum.lark"
    file.write_text('start: "7" "+" /[89]/\n')
    for flags, answers in (
        (("--regex", "ab|cd"), ("ab", "cd")),
        (("--grammar", 'start: "x" | "y"'), ("x", "y")),
        (("--grammar", str(file)), ("7+8", "7+9")),
        (("--choice", "yes", "--choice", "no"), ("yes", "no")),
        (("--choice", "yes, it is"), ("yes, it is",)),
    ):
        assert answer(invoke("run", model, *flags, "hello")) in answers


def test_the_reason_of_the_end_is_told(invoke: Invoke, model: str) -> None:
    fields = json.loads(answer(invoke("run", model, "--json", "--choice", "yes", "hello")))
    assert (fields["text"], fields["finish_reason"]) == ("yes", "stop")
    fields = json.loads(answer(invoke("run", model, "--json", "--choice", "yes", "-n", "2", "hello")))
    assert (fields["text"], fields["finish_reason"]) == ("ye", "length")


def test_it_holds_for_every_answer_of_a_conversation(invoke: Invoke, model: str) -> None:
    result = invoke("chat", model, "--choice", "yes", stdin="hello\n/set seed 1\n/show\nand now\n")
    assert (result.exit_code, result.stdout) == (0, "yes\nyes\n")
    assert "seed = 1" in result.stderr
    assert any(line.split() == ["choices", "'yes'"] for line in result.stderr.splitlines())


@pytest.mark.parametrize("command", ["run", "chat"])
@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--regex", "(a"), "regex: "),
        (("--json-schema", '{"type": "strin"}'), "json_schema: Invalid type: strin"),
        (("--json-schema", "{"), "json_schema is not JSON: "),
        (("--json-schema", '{"$ref": "https://example.com/x"}'), "json_schema: nothing is fetched"),
        (("--json-schema", "missing.json"), "missing.json: No such file"),
        (("--json-schema", " "), "--json-schema is empty"),
        (("--grammar", "start: x"), "grammar: "),
        (("--grammar", "missing.lark"), "--grammar: 'missing.lark' is no file, and no grammar"),
        (("--grammar", "a\0b"), "--grammar: "),
        (("--choice", ""), "choices must be texts that are not empty"),
        (("--choice", "a", "--regex", "b"), "regex and choices are given, but an answer has one form"),
    ],
)
def test_what_is_wrong_is_said_before_a_model_is_looked_for(invoke: Invoke, command: str, flags, message: str) -> None:
    assert refusal(invoke(command, "no-such-model", *flags, *(["x"] if command == "run" else []))).startswith(message)


def test_without_llguidance_the_command_that_installs_it_is_told(invoke: Invoke, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "llguidance", None)
    assert refusal(invoke("run", "tiny", "--regex", "a", "x")).endswith("run: pip install 'edgelm[guided]'")
