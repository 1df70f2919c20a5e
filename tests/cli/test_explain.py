"""``edgelm explain``: blocks on the terminal, JSON, a page."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result
from support.terminal import Terminal

from edgelm.cli.explain_table import Blocks
from edgelm.inspection.explain.results import Candidate, ExplainedToken, Explanation, Stage

Invoke = Callable[..., Result]
SAMPLED = ("--temperature", "1.5", "--top-k", "20", "--top-p", "0.8", "--repetition-penalty", "1.2", "--seed", "1")


def test_the_answer_is_that_of_run(invoke: Invoke) -> None:
    run = json.loads(invoke("run", "tiny", "ab", "-n", "6", "--json", *SAMPLED).stdout)
    done = invoke("explain", "tiny", "ab", "-n", "6", "--json", *SAMPLED)
    assert done.exit_code == 0, done.stderr
    found = json.loads(done.stdout)
    assert [token["id"] for token in found["tokens"]] == run["tokens"]
    assert (found["text"], found["finish_reason"], found["model"]) == (run["text"], run["finish_reason"], "tiny")
    assert found["prompt"] == ["a", "b", "."]
    stages = [stage["name"] for stage in found["tokens"][-1]["stages"]]
    assert stages == ["raw", "repetition_penalty", "temperature", "top_k", "top_p"]
    raw = json.loads(invoke("explain", "tiny", "ab", "--raw", "-n", "1", "--json").stdout)
    assert raw["prompt"] == ["a", "b"]


def test_blocks(invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    done = invoke("explain", "tiny", "ab", "-n", "3", "--top", "2", *SAMPLED)
    assert done.exit_code == 0, done.stderr
    assert "\x1b" not in done.stdout
    head, *blocks, summary = done.stdout.split("\n\n")
    assert head == "stages: raw → repetition_penalty=1.2 → temperature=1.5 → top_k=20 → top_p=0.8"
    assert len(blocks) == 3
    for number, block in enumerate(blocks, start=1):
        title, header, *rows = block.splitlines()
        assert re.match(rf" +{number} \S+  surprise .* nats \(.* bits\)  entropy .* nats \(.* bits\)$", title)
        assert header.split() == ["raw", "repeat", "temp", "top_k", "top_p"]
        assert sum(row.startswith("  ▸ ") for row in rows) == 1
        assert any(re.match(r"    top_k cut \d+ \(.* %\); \S+: rank 21 > top_k=20$", row) for row in rows)
        assert re.match(r"    drew 0\.\d{4}; \S+ has \d\.\d{4} to \d\.\d{4}$", rows[-1])
    assert re.match(r"3 tokens, mean surprise .* nats \(.* bits\) a token, perplexity ", summary)


def test_greedy_takes_the_likeliest(invoke: Invoke) -> None:
    done = invoke("explain", "tiny", "ab", "-n", "2")
    assert done.stdout.count("    took the likeliest\n") == 2
    assert "stages:" not in done.stdout


def test_as_many_tokens_as_can_be_read(invoke: Invoke, endless: str) -> None:
    count = lambda *more: len(json.loads(invoke("explain", endless, "ab", "--json", *more).stdout)["tokens"])  # noqa: E731
    assert count("--set", "eos_token_id=[]") == 32
    assert count("--set", "eos_token_id=[]", "--min-new-tokens", "33", "-n", "34") == 34


def test_a_text_that_is_given(invoke: Invoke) -> None:
    done = invoke("explain", "tiny", "--given", "ab c", "--json")
    assert done.exit_code == 0, done.stderr
    found = json.loads(done.stdout)
    assert [token["token"] for token in found["tokens"]] == ["b", " ", "c"]
    assert {token["choice"] for token in found["tokens"]} == {"given"}
    assert found["perplexity"] > 1
    assert "perplexity" in invoke("explain", "tiny", "--given", "ab c").stdout


def test_a_page(invoke: Invoke, tmp_path: Path) -> None:
    path = tmp_path / "a page.html"
    done = invoke("explain", "tiny", "ab", "-n", "2", "--html", str(path))
    assert (done.exit_code, done.stderr) == (0, f"wrote {path}\n")
    assert path.read_text(encoding="utf-8").startswith("<!DOCTYPE html>")


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("ab", "--num-beams", "2"), 2, "explained are answers made token by token, not those of num_beams=2"),
        (("ab", "--top", "0"), 2, "0 is not in the range"),
        (("ab", "--given", "-n", "3"), 2, "--given generates nothing, so it takes no settings of a generation"),
        (("ab", "--given", "--system", "c"), 2, "--system is for the chat template, which --given leaves out"),
        (("ab", "--raw", "--system", "c"), 2, "--system is for the chat template, which --raw leaves out"),
        (("a", "--given"), 2, "the text has one token"),
        (("  ",), 2, "the prompt is empty; write one, or have the model begin a text with --raw"),
        (("ab", "-n", "1", "--html", "/"), 2, "/ is a folder; name a file in it"),
    ],
)
def test_what_is_refused(invoke: Invoke, arguments: tuple[str, ...], code: int, message: str) -> None:
    done = invoke("explain", "tiny", *arguments)
    assert done.exit_code == code
    assert message in done.stderr
    assert done.stderr.count("\n") == 1


def cells(line: str) -> int:
    return sum(1 + (unicodedata.east_asian_width(char) in "WF") for char in line if not unicodedata.combining(char))


STAGES = tuple(
    Stage(name, f"{name}=1", 9, int(name in ("top_k", "top_p")), 0.1, 1.0)
    for name in ("raw", "repetition_penalty", "temperature", "top_k", "top_p", "min_p")
)


def explained(*texts: str) -> ExplainedToken:
    kept = [Candidate(n, text, (0.5,) * 6, None, "", (0.0, 0.5)) for n, text in enumerate(texts)]
    cut = Candidate(99, "\x1b[2J", (0.01, 0.01, 0.01, 0.01, 0.0, 0.0), 4, "likelier tokens have 0.91 ≥ top_p=0.9", None)
    return ExplainedToken(0, texts[0], STAGES, (*kept, cut), "drawn", 0.25, (0.0, 0.5), 0.7, 0.7)


@pytest.mark.parametrize("width", [60, 80, 100, 200])
@pytest.mark.parametrize("text", ["a", "漢" * 30, "e\u0301" * 40, "=" * 300])
def test_blocks_fit_and_stand_in_columns(width: int, text: str) -> None:
    block = Blocks(width=width, colour=False).block(explained(text, "b"))
    rows = [line for line in block.splitlines() if "50.0 %" in line]
    assert len({cells(row[: row.index("50.0 %")]) for row in rows}) == 1
    table = [line for line in block.splitlines() if line.startswith("    ") and " cut " not in line]
    assert all(cells(line) <= width for line in rows + [line for line in table if "%" in line])
    (cut,) = (line for line in block.splitlines() if line.startswith("    \\x1b"))
    assert cut.count("✗") == 1
    assert all(cells(line) <= width for line in block.splitlines() if line.startswith(("stages", "    top", "  min")))


def test_colours_and_what_a_token_cannot_do() -> None:
    plain, coloured = (Blocks(width=100, colour=colour).block(explained("a")) for colour in (False, True))
    assert "\x1b" not in plain
    assert "\\x1b[2J" in plain
    assert re.sub(r"\x1b\[\d+m", "", coloured) == plain
    assert "\x1b[2J" not in coloured
    told = Blocks(width=100, colour=False).summary(Explanation("tiny", (), "a\x1b[2J\nb", (explained("a"),), "stop"))
    assert told.endswith("\na\\x1b[2J\nb\n")


def test_stages_are_told_once() -> None:
    blocks = Blocks(width=100, colour=False)
    assert blocks.block(explained("a")).startswith("stages: raw=1 → ")
    assert "stages:" not in blocks.block(explained("a"))


@pytest.mark.skipif(not hasattr(__import__("os"), "openpty"), reason="needs a terminal")
def test_colour_is_for_terminals(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Terminal("explain", "tiny", "ab", "-n", "1", "--no-prepack", columns=90) as terminal:
        assert terminal.end(30) == 0
    assert "\x1b[1m" in terminal.shown
    monkeypatch.setenv("NO_COLOR", "1")
    with Terminal("explain", "tiny", "ab", "-n", "1", "--no-prepack", columns=90) as terminal:
        assert terminal.end(30) == 0
    assert "\x1b" not in terminal.shown
    assert "perplexity" in terminal.shown
