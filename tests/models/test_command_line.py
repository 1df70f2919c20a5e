"""The real model through the command line, in processes of its own."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

import edgelm

MOST_KL = 0.006
# Times that of fp32. Roundings of equal KL lie between 1.002 and 1.009 on this text, by chance: other processors sum
# the calibration's products in another order, and come to another rounding.
MOST_PERPLEXITY = 1.01
FAST_REFUSAL_SECONDS = 2.0


def test_json_tells_what_the_answer_cost(command: Callable) -> None:
    done = command("run", "smollm2", "--json", "-n", "20", "-", stdin="What is the capital of Japan?\n")
    answer = json.loads(done.stdout)
    assert "Tokyo" in answer["text"]
    assert answer["finish_reason"] == "stop"
    assert answer["usage"]["completion_tokens"] == len(answer["tokens"])
    assert 0 < answer["memory"]["peak_bytes"] < 600e6
    assert answer["timings"]["decode_tps"] > 0


def test_the_report_of_int8_keeps_its_promise(home: Path) -> None:
    bundle = home / "models" / "smollm2"
    report = json.loads((bundle / "report.json").read_text())
    assert report["scheme"] == "int8"
    assert report["tokens"] == 6144
    assert 0 < report["kl"] <= MOST_KL
    assert report["perplexity"] <= MOST_PERPLEXITY * report["reference_perplexity"]
    assert report["top1"] >= 0.94
    quality = json.loads((bundle / "edgelm.json").read_text())["quality"]
    assert quality == {name: report[name] for name in quality}


def test_a_memory_limit_that_is_too_small_is_refused_at_once(command: Callable) -> None:
    started = time.monotonic()
    done = command("run", "smollm2", "--max-memory", "10MB", "Hello")
    took = time.monotonic() - started
    assert done.returncode == 3
    assert "the limit is 10 MB" in done.stderr
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""
    assert took < FAST_REFUSAL_SECONDS


def test_a_memory_limit_holds(command: Callable) -> None:
    done = command("run", "smollm2", "--max-memory", "400MB", "-n", "64", "--json", "Tell me about Paris.")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["memory"]["peak_bytes"] <= 400e6


def test_a_prompt_longer_than_the_context_is_never_cut(command: Callable, int8: edgelm.LanguageModel) -> None:
    text = "hello" + " hello" * int8.context_length
    assert len(int8.tokenizer.encode(text)) == int8.context_length + 1
    done = command("run", "smollm2", "--raw", "-", stdin=text)
    assert done.returncode == 2
    assert str(int8.context_length + 1) in done.stderr
    assert str(int8.context_length) in done.stderr.replace(str(int8.context_length + 1), "")
    assert done.stdout == ""
