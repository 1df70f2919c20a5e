"""``edgelm templates``, and ``edgelm run --template``."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
from click.testing import Result
from support.command_line import edgelm

from edgelm.text.prompt_template import PromptTemplate

Invoke = Callable[..., Result]


@pytest.fixture
def examples(tmp_path: Path) -> str:
    file = tmp_path / "examples.csv"
    file.write_text("input,output\na,b\nc,d\n")
    return str(file)


@pytest.fixture
def template(tmp_path: Path) -> str:
    """Short enough for a context window of 64 tokens of one letter each."""
    file = tmp_path / "short.toml"
    file.write_text('input = "in {{ text }}{{ end }}"\noutput = "out"\nstop = ["q"]\n[defaults]\nend = "."\n')
    return str(file)


def prompt_tokens(invoke: Invoke, *arguments: str, stdin: str = "") -> int:
    result = invoke("run", "tiny", "--json", *arguments, stdin=stdin)
    assert result.exit_code == 0, result.stderr
    answer = json.loads(result.stdout)
    parts = answer["prompt_parts"]
    total = parts["system"] + parts["template"] + sum(parts["examples"]) + parts["input"]
    assert answer["usage"]["prompt_tokens"] == total
    return total


def test_the_list_names_every_template(invoke: Invoke) -> None:
    lines = invoke("templates").stdout.splitlines()
    assert lines[0].split() == ["template", "variables", "description"]
    assert any(line.startswith("translation     text, to ") for line in lines)
    names = [template["name"] for template in json.loads(invoke("templates", "--json").stdout)["templates"]]
    assert names == [line.split()[0] for line in lines[1:]]


def test_a_printed_template_can_be_used(invoke: Invoke, tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(invoke("templates", "qa").stdout)
    given = {"text": "a", "question": "b"}
    assert PromptTemplate.load(file).render(**given) == PromptTemplate.load("qa").render(**given)
    assert invoke("templates", "nonsense").exit_code == 2


def test_shots_are_one_number(invoke: Invoke, template: str, examples: str) -> None:
    given = ("--template", template, "--examples", examples, "hello")
    counts = [prompt_tokens(invoke, *given, "-k", str(k)) for k in (0, 1, 2)]
    # One token a letter, and a full stop behind each message: "in hello..", then "in a..b." and "in c..d." before it.
    assert counts[0] == len("in hello..")
    assert [after - before for before, after in pairwise(counts)] == [len("in a..b.")] * 2
    assert prompt_tokens(invoke, *given) == counts[2]


def test_the_text_comes_from_everywhere(invoke: Invoke, template: str, tmp_path: Path) -> None:
    file = tmp_path / "text.txt"
    file.write_text("hello\n")
    given = ("--template", template)
    expected = prompt_tokens(invoke, *given, "hello")
    assert prompt_tokens(invoke, *given, "-f", str(file)) == expected
    assert prompt_tokens(invoke, *given, stdin="hello\n") == expected
    assert prompt_tokens(invoke, *given, "--var", "text=hello") == expected
    assert prompt_tokens(invoke, *given, "--var", "input=hello", "--var", "end=.!=") == expected + 2


def test_without_a_chat_template_it_is_a_text(invoke: Invoke, template: str, examples: str) -> None:
    count = prompt_tokens(invoke, "--raw", "--template", template, "--examples", examples, "-k", "1", "hello")
    assert count == len("in a.out b") + len("in hello.out") + sum(text.count("\n") for text in ("\n", "\n\n", "\n"))


def test_verbose_tells_the_parts(home: Path, template: str) -> None:
    done = edgelm("run", "tiny", "--verbose", "-n", "3", "--template", template, "hello")
    assert done.returncode == 0
    assert done.stderr.startswith(b"system 0, template 5, input 5; room for an answer of 3 tokens\n")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--var", "a=b", "x"), "--var is for a template"),
        (("--examples", "a.csv", "x"), "--examples is for a template"),
        (("-k", "0", "x"), "-k is for a template"),
        (("--template", "summary", "--var", "ab", "x"), "not of the form NAME=VALUE"),
        (("--template", "summary", "--var", "a=b", "--var", "a=c", "x"), "given twice"),
        (("--template", "summary", "-k", "1", "x"), "name it with --examples"),
        (("--template", "summary", "-k", "-1", "x"), "-1 is not in the range"),
        (("--template", "summary", "--var", "text=a", "x"), "--var gives the text already"),
        (("--template", "summary", "--var", "nonsense=a", "x"), "has no variable 'nonsense'"),
        (("--template", "translation", "x"), "needs the variable 'to' (--var to=…)"),
        (("--template", "sumary", "x"), "did you mean summary"),
        (("--template", "summary", ""), "the prompt is empty, and summary needs a text"),
        (("--template", "summary", "x"), "input 3; shorten the template"),
        (("--template", "summary", "--raw", "--system", "y", "x"), "--system is for the chat template"),
    ],
)
def test_what_does_not_fit_is_refused(invoke: Invoke, arguments: tuple[str, ...], words: str) -> None:
    result = invoke("run", "tiny", "-c", "40", *arguments)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert words in result.stderr
