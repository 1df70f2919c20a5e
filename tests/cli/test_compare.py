"""``edgelm compare`` on the command line."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result
from hypothesis import given
from hypothesis import strategies as st
from support.command_line import edgelm

from edgelm.cli.comparison_table import comparison_table, cut, display_width
from edgelm.comparison.results import Comparison, Row

Invoke = Callable[..., Result]
SHORT = ("-n", "6", "--min-new-tokens", "6")


def test_a_grid_with_seeds(invoke: Invoke) -> None:
    result = invoke("compare", "tiny", "-p", "hello", "--grid", "temperature=0.5,2", "--seeds", "2", *SHORT)
    assert result.exit_code == 0, result.stderr
    lines = result.stdout.splitlines()
    assert lines[0].split()[:4] == ["configuration", "seed", "tokens", "tokens/s"]
    assert [line.split()[:3] for line in lines[1:]] == [
        ["temperature=0.5", "1", "6"],
        ["temperature=0.5", "2", "6"],
        ["temperature=2.0", "1", "6"],
        ["temperature=2.0", "2", "6"],
    ]
    assert result.stderr == "Comparing on tiny\n"


def test_each_row_is_what_run_answers(invoke: Invoke) -> None:
    grid = ("--grid", "temp=0.5,9", "--seeds", "3,5", *SHORT)
    rows = json.loads(invoke("compare", "tiny", "-p", "hello", "--json", *grid).stdout)["rows"]
    assert [(row["settings"]["temperature"], row["seed"]) for row in rows] == [(0.5, 3), (0.5, 5), (9, 3), (9, 5)]
    for row in rows:
        flags = ("--temperature", str(row["settings"]["temperature"]), "--seed", str(row["seed"]))
        said = json.loads(invoke("run", "tiny", "hello", "--json", *SHORT, *flags).stdout)
        assert said["text"] == row["text"]


def test_files_are_written(invoke: Invoke, tmp_path: Path) -> None:
    page, table = tmp_path / "a.html", tmp_path / "a.csv"
    result = invoke("compare", "tiny", "-p", "a", "-p", "b", *SHORT, "--html", str(page), "--csv", str(table))
    assert result.exit_code == 0, result.stderr
    assert [line.split(" ")[0] for line in result.stderr.splitlines()] == ["Comparing", "wrote", "wrote"]
    assert page.read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    with table.open(encoding="utf-8", newline="") as file:
        assert [row["prompt"] for row in csv.DictReader(file)] == ["a", "b"]


def test_shots_and_inputs_from_files(invoke: Invoke, tmp_path: Path) -> None:
    template, examples, inputs = (tmp_path / name for name in ("t.txt", "examples.csv", "inputs.jsonl"))
    template.write_text("{{ text }}")
    examples.write_text("text,output\na,b\nc,d\n")
    inputs.write_text('{"text": "e", "output": "f"}\n{"text": "g", "output": "h"}\n')
    few = ("--template", str(template), "--examples", str(examples), "-k", "0,2")
    result = invoke("compare", "tiny", "--raw", *few, "--inputs", str(inputs), "--json", *SHORT)
    rows = json.loads(result.stdout)["rows"]
    assert [(row["prompt"], row["input"]) for row in rows] == [
        (f"t.txt k={k}", number) for k in (0, 2) for number in (1, 2)
    ]
    assert all("rouge_l" in row for row in rows)
    assert rows[2]["prompt_tokens"] > rows[0]["prompt_tokens"]
    # The second input begins with the same examples.
    assert rows[3]["cached_tokens"] == rows[3]["prompt_tokens"] - 1


def test_an_input_may_be_piped_in(home: Path) -> None:
    given = ("compare", "tiny", "--raw", "-p", "b", "--json", *SHORT)
    piped = json.loads(edgelm(*given, input=b"aa\n").stdout)
    assert piped["prompts"][0]["text"] == "aa\n\nb"
    named = json.loads(edgelm(*given, "--input", "aa", "--reference", "c").stdout)
    assert named["prompts"][0] == {"prompt": "b", "input": 1, "text": "aa\n\nb", "references": ["c"]}
    assert "chrf" in named["rows"][0]


def test_a_system_prompt_of_the_catalog_holds_as_in_run(invoke: Invoke, home: Path) -> None:
    entry = '[tiny]\nsource = "hf:a/b"\nlicense = "MIT"\ntasks = ["chat"]\ndescription = "x"\n'
    (home / "catalog.toml").write_text(entry + 'system_prompt = "be kind"\n')
    for flags in ((), ("--system", "do it"), ("--system", "")):
        said = json.loads(invoke("run", "tiny", "hello", "--json", *SHORT, *flags).stdout)
        (row,) = json.loads(invoke("compare", "tiny", "-p", "hello", "--json", *SHORT, *flags).stdout)["rows"]
        assert (row["text"], row["prompt_tokens"]) == (said["text"], said["usage"]["prompt_tokens"])
    assert said["usage"]["prompt_tokens"] == len("hello.")


def test_a_file_says_it_all(invoke: Invoke, tmp_path: Path) -> None:
    file = tmp_path / "grid.toml"
    file.write_text("models = ['tiny']\nprompts = ['a']\n[grid]\ntemperature = [0.5, 2.0]\ntop_k = [3]\n")
    rows = json.loads(invoke("compare", str(file), "--json", "--seed", "1", *SHORT).stdout)["rows"]
    assert [row["configuration"] for row in rows] == ["temperature=0.5, top_k=3", "temperature=2.0, top_k=3"]
    assert all(row["settings"]["do_sample"] and row["tokens"] == 6 for row in rows)
    refused = invoke("compare", str(file), "-p", "b")
    assert (refused.exit_code, "a TOML file says itself" in refused.stderr) == (2, True)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("tiny",), "there is no prompt"),
        (("tiny", "-p", "a", "-k", "1"), "--var, --examples and -k are for a template"),
        (("tiny", "-p", "a", "--grid", "temperature"), "not of the form NAME=VALUE,VALUE"),
        (("tiny", "-p", "a", "--grid", "tempature=1"), "is no setting"),
        (("tiny", "-p", "a", "--regex", "a", "--choice", "b"), "give one of them"),
        (("tiny", "-p", "a", "--grid", "temperature=1,x"), "temperature must be a number"),
        (("tiny", "-p", "a", "--grid", "top_p=0.5,1.5"), "top_p must be above 0 and at most 1"),
        (("tiny", "-p", "a", "--grid", "bad_words_ids=1"), "takes lists"),
        (("tiny", "-p", "a", "--grid", "top_k=1", "--grid", "top-k=2"), "--grid top_k is given twice"),
        (("tiny", "-p", "a", "--seeds", "0"), "at least 1"),
        (("tiny", "-p", "a", "--seeds", "1,x"), "no list of seeds"),
        (("tiny", "-p", "a", "--inputs", "a.csv", "--input", "b"), "give no --input"),
        (("tiny", "-p", "a", "--inputs", "none.csv"), "No such file"),
        (("tiny", "-p", "a", "--html", "/none/a.html"), "there is no folder '/none' to write a.html into"),
        (("tinny", "-p", "a"), "did you mean tiny"),
        (("none.toml",), "No such file"),
        (("tiny", "-p", "a" * 70), "model tiny, prompt aaaa"),
    ],
)
def test_what_cannot_be_compared_is_refused(invoke: Invoke, arguments: tuple[str, ...], words: str) -> None:
    result = invoke("compare", *arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert words in result.stderr
    assert result.stderr.count("\n") == 1


def row_of(text: str, configuration: str) -> Row:
    empty = (None,) * 7
    return Row("m", "p", 1, configuration, {}, None, 1, text, "stop", 1, 0, 2, *empty)


@given(st.lists(st.text(min_size=1), min_size=2, max_size=4), st.integers(30, 200))
def test_a_terminals_lines_are_as_wide_as_it_is(texts: list[str], width: int) -> None:
    rows = tuple(row_of(text, f"c{number}") for number, text in enumerate(texts))
    table = comparison_table(Comparison(rows, ()), width)
    assert all(display_width(line) <= width for line in table.split("\n"))


def test_texts_are_cut_on_terminals_only() -> None:
    comparison = Comparison((row_of("x" * 300, "a"), row_of("one\ntwo", "b")), ())
    wide = comparison_table(comparison, None)
    assert "x" * 300 in wide
    assert "one two" in wide
    narrow = comparison_table(comparison, 60).splitlines()
    assert len(narrow) == 3
    assert narrow[1].endswith("x…")
    below = comparison_table(comparison, 30).splitlines()
    assert below[2] == "    " + "x" * 25 + "…"


@pytest.mark.parametrize(
    ("text", "width", "expected"),
    [("abc", 3, "abc"), ("abcd", 3, "ab…"), ("日本語", 4, "日…"), ("e\u0301x", 2, "e\u0301x")],
)
def test_wide_characters_take_two_columns(text: str, width: int, expected: str) -> None:
    assert cut(text, width) == expected
