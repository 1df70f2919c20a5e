from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from support.scripted_bundle import write_scripted_bundle

from edgelm_tools import benchmark_guesses
from edgelm_tools.benchmark_guesses import Pair, main, markdown_table
from edgelm_tools.guessing_prompts import PROMPTS


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EDGELM_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(benchmark_guesses, "PROMPTS", (("copying", "abcdefgh"), ("free text", "x")))
    return write_scripted_bundle(tmp_path / "letters", "abcdefghijklmnopqrstuvwxyz.?", loop=True, context_length=128)


def test_both_ways_are_measured_for_every_prompt(folder: Path) -> None:
    done = CliRunner().invoke(main, [str(folder), "--runs", "2", "-n", "70", "-t", "1", "--json"])
    assert done.exit_code == 0, done.output
    pairs = json.loads(done.stdout)["pairs"]
    assert [pair["work"] for pair in pairs] == ["copying", "free text"] * 2
    for pair in pairs:
        assert pair["same"]
        assert 0 < pair["right"] <= pair["guesses"]
        assert pair["gain"] == pytest.approx(pair["guessing_tps"] / pair["plain_tps"])


def test_a_draft_model_can_guess_instead(folder: Path) -> None:
    done = CliRunner().invoke(main, [str(folder), "--draft", str(folder), "--runs", "1", "-n", "20", "-t", "1"])
    assert done.exit_code == 0, done.output
    assert "| none made |" in done.stdout  # it is as slow as the model
    assert "answers that differ: 0 of 2" in done.stdout


def test_a_model_that_is_not_there_is_one_line(folder: Path) -> None:
    done = CliRunner().invoke(main, ["nonsense"])
    assert done.exit_code == 1
    assert "nonsense" in done.output
    assert "Traceback" not in done.output


def test_the_table_has_medians_of_the_ratios() -> None:
    def pair(work: str, plain: float, guessing: float) -> Pair:
        return Pair(work=work, plain_tps=plain, guessing_tps=guessing, guesses=10, right=6, same=True)

    pairs = [pair("copying", 10, 20), pair("copying", 20, 60), pair("copying", 5, 30), pair("free text", 8, 8)]
    assert markdown_table(pairs).splitlines()[2:] == [
        "| copying | 10 | 30 | ×3.00 | 60% |",
        "| free text | 8 | 8 | ×1.00 | 60% |",
    ]


def test_there_are_prompts_of_both_kinds() -> None:
    works = [work for work, _ in PROMPTS]
    assert works.count("copying") == 10
    assert works.count("free text") == 8
    assert len({prompt for _, prompt in PROMPTS}) == len(PROMPTS)
