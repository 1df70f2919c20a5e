"""``edgelm bench``, and the measuring itself."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result
from support.bundles import write_decoder_bundle
from support.command_line import edgelm

import edgelm as package
from edgelm.benchmark import benchmark
from edgelm.errors import ConfigError, MemoryLimitError, PromptError

Invoke = Callable[..., Result]
IDS = [1, 4, 9, 16, 25]


@pytest.fixture
def ids(tmp_path: Path) -> str:
    file = tmp_path / "ids.json"
    file.write_text(json.dumps(IDS))
    return str(file)


def test_json(invoke: Invoke, ids: str) -> None:
    result = invoke("bench", "tiny", "--prompt-ids", ids, "-n", "12", "-t", "1", "--json")
    assert result.stdout.count("\n") == 1
    values = json.loads(result.stdout)
    assert list(values) == [
        *("model", "scheme", "threads", "kv_cache", "prompt_tokens", "new_tokens"),
        *("prefill_tps", "decode_tps", "ttft_s", "load_s", "peak_rss_mb", "tokens"),
    ]
    assert (values["model"], values["scheme"], values["threads"]) == ("tiny", "fp32", 1)
    assert (values["prompt_tokens"], values["new_tokens"]) == (5, 12)
    assert all(values[name] > 0 for name in ("prefill_tps", "decode_tps", "ttft_s", "load_s", "peak_rss_mb"))


def test_the_tokens_are_those_of_greedy_generation(home: Path) -> None:
    with package.load("tiny") as lm:
        expected = lm.generate(IDS, max_new_tokens=30, eos_token_id=()).token_ids
        if len(expected) < 30:  # the settings cannot switch the model's own end of sequence off
            expected = expected[:-1]
    assert benchmark("tiny", prompt=IDS, new_tokens=30).tokens[: len(expected)] == expected


def test_it_does_not_stop_at_an_end_of_sequence(home: Path) -> None:
    first = benchmark("tiny", prompt=IDS, new_tokens=4).tokens
    write_decoder_bundle(home / "models" / "tiny", eos_token_id=(first[1],))
    assert benchmark("tiny", prompt=IDS, new_tokens=4).tokens == first


def test_the_tokenizer_is_not_read(home: Path) -> None:
    write_decoder_bundle(home / "models" / "tiny", files={"tokenizer.json": b"no tokenizer"})
    assert len(benchmark("tiny", prompt=7, new_tokens=2).tokens) == 2


def test_the_context_may_be_filled_and_not_exceeded(home: Path) -> None:
    assert benchmark("tiny", prompt=63, new_tokens=1).decode_tps is None
    assert len(benchmark("tiny", prompt=1, new_tokens=63).tokens) == 63
    with pytest.raises(ConfigError, match="prompt and answer have 65 tokens, the context window 64"):
        benchmark("tiny", prompt=60, new_tokens=5)
    with pytest.raises(MemoryLimitError):
        benchmark("tiny", prompt=60, new_tokens=1, max_memory=10_000_000)


@pytest.mark.parametrize("prompt", [0, [], [-1], [34], [True], [1.0]])
def test_bad_prompts(home: Path, prompt: object) -> None:
    with pytest.raises(PromptError):
        benchmark("tiny", prompt=prompt, new_tokens=1)  # type: ignore[arg-type]
    with pytest.raises(ConfigError):
        benchmark("tiny", prompt=1, new_tokens=0)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("[1, 2.0]", "[1] must be a token id, a whole number, not 2.0"),
        ("[true]", "[0] must be a token id"),
        ("[]", "not empty"),
        ('{"a": 1}', "must be a JSON list"),
        ("[NaN]", "NaN is not a JSON number"),
        ("[" * 200_000, "nested deeper"),
        ("[1] x", "not valid JSON"),
        ("[99]", "token ids are from 0 to 31"),
        ("[" + "1," * 64 + "1]", "the context window 64"),
    ],
)
def test_bad_files_of_ids(invoke: Invoke, tmp_path: Path, content: str, words: str) -> None:
    file = tmp_path / "ids.json"
    file.write_text(content)
    result = invoke("bench", "tiny", "--prompt-ids", str(file), "-n", "1")
    assert (result.exit_code, result.stdout) == (2, "")
    assert words in result.stderr
    assert result.stderr.count("\n") == 1


def test_ids_and_a_number_of_tokens_exclude_each_other(invoke: Invoke, tmp_path: Path) -> None:
    file = tmp_path / "ids.json"
    file.write_text("[1, 2]")
    result = invoke("bench", "tiny", "--prompt-ids", str(file), "--prompt-tokens", "255")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "give either --prompt-ids or --prompt-tokens" in result.stderr


def test_a_variant_is_for_folders_of_other_tools(invoke: Invoke) -> None:
    result = invoke("bench", "tiny", "--variant", "q4")
    assert result.exit_code == 2
    assert "has no variants" in result.stderr


def test_summary(invoke: Invoke) -> None:
    result = invoke("bench", "tiny", "--prompt-tokens", "20", "-n", "5")
    assert result.exit_code == 0
    assert all(name in result.stdout for name in ("prefill", "decode", "first token", "load", "peak memory"))
    assert " MB\n" in result.stdout
    assert "'-n'" in invoke("bench", "tiny", "-n", "0").stderr
    assert "No such file" in invoke("bench", "tiny", "--prompt-ids", "none.json").stderr


def test_memory_is_that_of_running_alone(home: Path) -> None:
    values = json.loads(edgelm("bench", "tiny", "-n", "8", "--prompt-tokens", "8", "--json").stdout)
    assert 30 < values["peak_rss_mb"] < 150
