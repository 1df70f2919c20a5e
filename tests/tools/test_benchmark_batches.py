from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from support.scripted_bundle import write_scripted_bundle

from edgelm_tools.benchmark_batches import main, prompts_of_many_lengths


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EDGELM_HOME", str(tmp_path / "home"))
    return write_scripted_bundle(tmp_path / "letters", "abcdefghijklmnopqrstuvwxyz.?", loop=True, context_length=2048)


def test_both_ways_are_measured_in_every_round(folder: Path) -> None:
    done = CliRunner().invoke(main, [str(folder), "--runs", "2", "--prompts", "3", "-n", "9", "-t", "1", "--json"])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert (found["prompts"], len(found["rounds"])) == (3, 2)
    for one in found["rounds"]:
        assert one["same"] == 3
        assert one["gain"] == pytest.approx(one["batch_tps"] / one["single_tps"])


def test_without_json_it_is_one_line(folder: Path) -> None:
    done = CliRunner().invoke(main, [str(folder), "--runs", "1", "--prompts", "2", "-n", "5", "-t", "1"])
    assert done.exit_code == 0, done.output
    assert done.stdout.startswith("2 prompts, 5 tokens each: one by one ")
    assert done.stdout.endswith("the same tokens: 2 of 2 answers\n")


def test_a_model_that_is_not_there_is_one_line(folder: Path) -> None:
    done = CliRunner().invoke(main, ["nonsense"])
    assert done.exit_code == 1
    assert "nonsense" in done.output
    assert "Traceback" not in done.output


def test_every_other_prompt_has_a_passage_to_read() -> None:
    prompts = prompts_of_many_lengths(8)
    assert len(set(prompts)) == 8
    assert min(len(prompt) for prompt in prompts[::2]) > 2 * max(len(prompt) for prompt in prompts[1::2])
    assert len(prompts_of_many_lengths(100)) == 100
