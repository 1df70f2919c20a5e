"""``edgelm ner``, ``qa`` and ``fill-mask``: one text in, aligned lines or JSON out."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result
from support.token_tasks import LONG_TEXT, write_task_bundle

Invoke = Callable[..., Result]

TASKS = {"ner": "token-classification", "qa": "question-answering", "fill-mask": "fill-mask"}
SHORT = "She sells sea shells."


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    root = tmp_path_factory.mktemp("bundles")
    return {command: str(write_task_bundle(root / command, task)) for command, task in TASKS.items()}


def lines(output: str) -> list[list[str]]:
    return [line.split(maxsplit=3) for line in output.splitlines()]


def test_ner_prints_a_line_for_each_entity(invoke: Invoke, models: dict[str, str]) -> None:
    done = invoke("ner", models["ner"], LONG_TEXT, "--aggregation", "none")
    assert done.exit_code == 0, done.stderr
    header, *rows = lines(done.stdout)
    assert header == ["label", "score", "place", "text"]
    assert rows
    for label, score, place, text in rows:
        start, end = map(int, place.split("-"))
        assert LONG_TEXT[start:end] == text
        assert label[:2] in ("B-", "I-")
        assert 0 <= float(score) <= 1


def test_ner_takes_its_text_from_a_file_and_prints_json(invoke: Invoke, models: dict[str, str], tmp_path: Path) -> None:
    path = tmp_path / "text.txt"
    path.write_text(LONG_TEXT, encoding="utf-8")
    done = invoke("ner", models["ner"], "-f", str(path), "--json")
    answer = json.loads(done.stdout)
    assert answer["model"] == "tiny-encoder"
    assert answer["entities"]
    assert list(answer["entities"][0]) == ["entity_group", "score", "word", "start", "end"]


def test_ner_says_that_there_is_nothing(invoke: Invoke, models: dict[str, str]) -> None:
    done = invoke("ner", models["ner"], stdin="")
    assert (done.exit_code, done.stdout, done.stderr) == (0, "", "no entities\n")


def test_qa_answers_from_a_document_on_standard_input(invoke: Invoke, models: dict[str, str]) -> None:
    done = invoke("qa", models["qa"], "Who sells?", "--top-k", "3", stdin=LONG_TEXT)
    assert done.exit_code == 0, done.stderr
    header, *rows = (line.split(maxsplit=2) for line in done.stdout.splitlines())
    assert header == ["score", "place", "answer"]
    assert len(rows) == 3
    for _, place, answer in rows:
        start, end = map(int, place.split("-"))
        assert LONG_TEXT[start:end].strip() == answer


def test_qa_may_say_that_there_is_no_answer(invoke: Invoke, models: dict[str, str]) -> None:
    command = ("qa", models["qa"], "Who sells?", "--context", SHORT, "--top-k", "99")
    answers = json.loads(invoke(*command, "--no-answer", "--json").stdout)["answers"]
    assert {"start": 0, "end": 0, "answer": ""} in [{k: v for k, v in a.items() if k != "score"} for a in answers]
    assert "(no answer)" in invoke(*command, "--no-answer").stdout


def test_fill_mask_fills(invoke: Invoke, models: dict[str, str]) -> None:
    done = invoke("fill-mask", models["fill-mask"], "she sells [MASK] shells", "--targets", "sea,fox")
    assert done.exit_code == 0, done.stderr
    header, *rows = lines(done.stdout)
    assert header[:2] == ["score", "token"]
    assert sorted(row[1] for row in rows) == ["fox", "sea"]


def test_fill_mask_numbers_several_gaps(invoke: Invoke, models: dict[str, str]) -> None:
    command = ("fill-mask", models["fill-mask"], "[MASK] sells [MASK]", "--top-k", "2")
    header, *rows = lines(invoke(*command).stdout)
    assert header[0] == "gap"
    assert [row[0] for row in rows] == ["1", "1", "2", "2"]
    gaps = json.loads(invoke(*command, "--json").stdout)["gaps"]
    assert [[filling["token_str"] for filling in gap] for gap in gaps] == [
        [row[2] for row in rows[:2]],
        [row[2] for row in rows[2:]],
    ]


@pytest.mark.parametrize(
    ("command", "model", "message"),
    [
        (("ner", "{model}", "x"), "qa", "question-answering"),
        (("qa", "{model}", "x", "--context", "y"), "ner", "token-classification"),
        (("fill-mask", "{model}", "x [MASK]"), "ner", "token-classification"),
    ],
)
def test_a_model_for_something_else_says_what_it_is_for(
    invoke: Invoke, models: dict[str, str], command: tuple[str, ...], model: str, message: str
) -> None:
    done = invoke(*(part.format(model=models[model]) for part in command))
    assert done.exit_code == 2
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert message in line


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (("fill-mask", "{fill-mask}", "no gap"), "mark one with [MASK]"),
        (("fill-mask", "{fill-mask}", "[MASK]", "--top-k", "0"), "--top-k"),
        (("ner", "{ner}", "x", "-f", "y"), "the text is given more than once"),
        (("qa", "{qa}", "x", "--context", "y", "-f", "z"), "the document is given more than once"),
        (("qa", "{qa}", "x", "--context", ""), "context is empty"),
        (("ner", "{ner}", "x", "--aggregation", "mean"), "--aggregation"),
    ],
)
def test_mistakes_are_told_in_one_line(
    invoke: Invoke, models: dict[str, str], command: tuple[str, ...], message: str
) -> None:
    done = invoke(*(part.format(**models) if part.startswith("{") else part for part in command))
    assert (done.exit_code, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert message in line


def test_the_help_page_knows_the_aggregations_of_the_task() -> None:
    from edgelm.cli import ner
    from edgelm.tasks.entities import AGGREGATIONS

    assert ner.AGGREGATIONS == AGGREGATIONS
