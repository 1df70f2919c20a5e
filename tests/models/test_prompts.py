"""Templates and comparisons with the real model."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import edgelm

REVIEWS = (
    ("I loved every minute of it.", "positive"),
    ("The room was dirty and the staff were rude.", "negative"),
    ("It arrived on Tuesday in a brown box.", "neutral"),
)
COMPLAINT = "The soup was cold and the bill was wrong."


@pytest.fixture
def reviews(tmp_path: Path) -> Path:
    file = tmp_path / "reviews.jsonl"
    file.write_text("".join(json.dumps({"text": text, "output": label}) + "\n" for text, label in REVIEWS))
    return file


def test_examples_teach_what_is_asked_for(command: Callable[..., Any], reviews: Path) -> None:
    """As README.md shows it."""
    asked = ("run", "smollm2", "--raw", "--template", "classification", "--examples", str(reviews))
    labels = [command(*asked, "-k", str(k), COMPLAINT).stdout.strip() for k in (0, 3)]
    assert labels == ["positive", "negative"]


def test_the_parts_are_those_of_the_prompt(command: Callable[..., Any], reviews: Path) -> None:
    asked = ("run", "smollm2", "--template", "classification", "--examples", str(reviews), "-n", "4", "--json")
    answer = json.loads(command(*asked, "--system", "Be brief.", COMPLAINT).stdout)
    parts = answer["prompt_parts"]
    total = parts["system"] + parts["template"] + sum(parts["examples"]) + parts["input"]
    assert total == answer["usage"]["prompt_tokens"]
    assert (len(parts["examples"]), parts["answer"]) == (3, 4)
    assert 0 < parts["input"] < 15


def test_a_grid_of_temperatures(command: Callable[..., Any], tmp_path: Path) -> None:
    page, table = tmp_path / "story.html", tmp_path / "story.csv"
    grid = ("--grid", "temperature=0.2,1.2", "--seeds", "2", "-n", "40", "--html", str(page), "--csv", str(table))
    done = command("compare", "smollm2", "-p", "Tell me a story.", *grid)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 5
    with table.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    cold, hot = ([float(row["mean_logprob"]) for row in rows if row["temperature"] == t] for t in ("0.2", "1.2"))
    assert min(cold) > max(hot)
    # The prompt was computed once.
    assert [row["cached_tokens"] for row in rows[1:]] == [str(int(rows[0]["prompt_tokens"]) - 1)] * 3
    assert "Tell me a story." in page.read_text(encoding="utf-8")


def test_beams_find_what_is_likelier(fp32: edgelm.LanguageModel) -> None:
    configs = [{"name": "greedy"}, {"name": "beams", "num_beams": 4, "length_penalty": 0.0}]
    settings = {"max_new_tokens": 12, "min_new_tokens": 12}
    prompts = ["The old house by the sea", "My favourite food is"]
    rows = edgelm.compare(fp32, prompts, configs=configs, raw=True, **settings).rows
    for greedy, beams in zip(rows[::2], rows[1::2], strict=True):
        assert greedy.logprob is not None
        assert beams.logprob is not None
        assert beams.logprob > greedy.logprob - 1e-3
