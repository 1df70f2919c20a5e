"""``edgelm show --memory``: of what is here, of what could be pulled, and of checkpoints."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result
from hypothesis import given
from hypothesis import strategies as st
from support.llama_checkpoint import write_llama_checkpoint

from edgelm.bundle.catalog import load_catalog
from edgelm.bundle.manifest import Manifest, Source
from edgelm.cli.expected import expected_of_checkpoint, expected_of_entry
from edgelm.cli.memory_report import memory_text, most_tokens, need_of, needs_of
from edgelm.config import RuntimeConfig
from edgelm.errors import ConfigError, MemoryLimitError
from edgelm.runtime.fitting import Limit, fit
from edgelm.runtime.memory import budget
from edgelm_tools.export import export

Invoke = Callable[..., Result]


def smollm2() -> Manifest:
    entry = load_catalog().get("smollm2")
    assert entry is not None
    manifest = expected_of_entry(entry)
    assert manifest is not None
    return manifest


def test_every_length_has_a_column_and_every_part_a_row_and_a_bar(invoke: Invoke) -> None:
    result = invoke("show", "smollm2", "--memory")
    assert result.exit_code == 0
    table = result.stdout.partition("Memory, KV cache of f32\n")[2].splitlines()
    assert table[0].split() == ["TOKENS", "512", "2048", "8192"]
    rows = {line[:22].strip(): line[22:] for line in table[1:8]}
    assert [*rows] == ["Python and libraries", "tokenizer", "graph", "weights", "KV cache", "activations", "in all"]
    assert rows["KV cache"].split()[:6] == ["23.6", "MB", "94.4", "MB", "377", "MB"]
    lengths = {name: row.count("█") for name, row in rows.items()}
    assert lengths["KV cache"] == max(lengths.values()) > lengths["weights"] > lengths["Python and libraries"] > 0
    assert "█" not in rows["in all"]


def test_the_limit_tells_how_long_a_context_may_be(invoke: Invoke) -> None:
    limit = 300_000_000
    within = most_tokens(smollm2(), limit, "f32")
    assert need_of(smollm2(), within + 1, "f32").parts.total > limit
    assert most_tokens(smollm2(), limit, "int8") > 2 * within
    said = invoke("show", "smollm2", "--memory", "--max-memory", "300MB").stdout
    assert f"Within the limit of --max-memory, 300 MB: {within} tokens (f32 cache), " in said
    assert "tokens (int8 cache), with prompts read 32 tokens at a time, not 128\n" in said, "as in the tables"


def test_what_does_not_fit_is_told_with_the_least_that_does(invoke: Invoke) -> None:
    none = invoke("show", "smollm2", "--memory", "--max-memory", "100MB").stdout
    found = re.search(r"fit into the limit of --max-memory, 100 MB: 256 tokens take (\d+) MB at least\n", none)
    assert found is not None, none
    least = json.loads(invoke("show", "smollm2", "--memory", "--json").stdout)["least_bytes"]
    assert int(found[1]) - 1 < least / 1e6 <= int(found[1])
    assert fit(smollm2(), RuntimeConfig(), 256, limit=Limit(least)).need.total == least
    with pytest.raises(MemoryLimitError):
        fit(smollm2(), RuntimeConfig(), 256, limit=Limit(least - 1))


def test_damage_that_is_seen_at_once_is_told(invoke: Invoke, home: Path) -> None:
    (home / "models" / "tiny" / "tokenizer.json").unlink()
    told = invoke("show", "tiny")
    assert (told.exit_code, "tokenizer.json" in told.stdout) == (0, True)
    assert re.fullmatch(r"edgelm: warning: tokenizer.json is missing in .*; the bundle is damaged: .*\n", told.stderr)
    (home / "models" / "tiny" / "edgelm.json").write_text("{")
    refused = invoke("show", "tiny")
    assert refused.stderr.endswith(f"(in {home / 'models' / 'tiny'})\n")


def test_json_has_everything(invoke: Invoke) -> None:
    values = json.loads(invoke("show", "smollm2", "--memory", "--max-memory", "1GB", "-c", "3000", "--json").stdout)
    f32 = [need for need in values["memory"] if need["kv_type"] == "f32"]
    assert [need["tokens"] for need in f32] == [512, 2048, 3000]
    assert all(
        need["total"] == sum(v for k, v in need.items() if k not in ("tokens", "kv_type", "total")) for need in f32
    )
    assert values["memory_limit"] == {"bytes": 1_000_000_000, "source": "--max-memory"}
    assert values["tokens_within_limit"]["f32"] == 8192


def test_an_encoder_is_asked_by_the_length_of_texts(invoke: Invoke) -> None:
    values = json.loads(invoke("show", "minilm", "--memory", "--json").stdout)
    assert [need["tokens"] for need in values["memory"]] == [128, 256]
    assert "kv_type" not in values["memory"][0]
    said = invoke("show", "minilm", "--memory", "--max-memory", "1GB").stdout
    assert "256 tokens, one text at a time; the table has batches\n" in said


@pytest.mark.parametrize("scheme", ["int8", "int4", "fp32"])
def test_a_checkpoint_is_told_before_it_is_converted(tmp_path: Path, scheme: str) -> None:
    """What is expected of a checkpoint's headers is what converting it makes, for the budget."""
    checkpoint = write_llama_checkpoint(tmp_path / "checkpoint")
    expected = expected_of_checkpoint(checkpoint, scheme)
    made = export(checkpoint, tmp_path / "b", name="b", origin=Source("test"), scheme=scheme, report=False)
    for tokens in (64, 128):
        ours, theirs = (budget(manifest, tokens=tokens, prefill_chunk=64) for manifest in (expected, made))
        assert (ours.kv_cache, ours.interpreter) == (theirs.kv_cache, theirs.interpreter)
        assert ours.total == pytest.approx(theirs.total, rel=0.03)


def test_show_tells_of_a_checkpoint(invoke: Invoke, tmp_path: Path) -> None:
    checkpoint = write_llama_checkpoint(tmp_path / "checkpoint")
    result = invoke("show", str(checkpoint), "--memory", "--scheme", "int4")
    assert result.exit_code == 0
    assert "quantization    int4" in result.stdout
    assert "KV cache" in result.stdout
    assert f"convert it with: edgelm export '{checkpoint}'" in result.stderr
    assert json.loads(invoke("show", str(checkpoint), "--memory", "--json").stdout)["memory"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["tiny", "-c", "32"], "--ctx-size goes with --memory"),
        (["tiny", "--max-memory", "1GB"], "--max-memory goes with --memory"),
        (["tiny", "--scheme", "int8"], "--scheme goes with --memory"),
        (["tiny", "--memory", "--scheme", "int8"], "--scheme is for what is not converted yet"),
        (["tiny", "--memory", "-c", "65"], "--ctx-size is at most 64 for tiny, not 65"),
        (["tiny", "--memory", "--max-memory", "1"], "did you mean 1MB?"),
    ],
)
def test_what_show_refuses(invoke: Invoke, arguments: list[str], words: str) -> None:
    result = invoke("show", *arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert words in result.stderr


@given(width=st.integers(20, 240), tokens=st.integers(1, 8192), colour=st.booleans())
def test_no_line_is_wider_than_the_terminal(width: int, tokens: int, colour: bool) -> None:
    text = memory_text(needs_of(smollm2(), ("f32", "int8"), tokens), width=width, colour=colour)
    assert ("\x1b" in text) == (colour and "█" in text)
    plain = text.replace("\x1b[36m", "").replace("\x1b[0m", "")
    narrowest = max(
        map(len, memory_text(needs_of(smollm2(), ("f32",), tokens)[:1], width=1, colour=False).splitlines())
    )
    assert max(map(len, plain.splitlines())) <= max(width, narrowest)


@given(limit=st.integers(0, 2_000_000_000))
def test_the_longest_context_is_the_longest(limit: int) -> None:
    manifest, runtime = smollm2(), RuntimeConfig()
    found = most_tokens(manifest, limit)
    if found:
        assert fit(manifest, runtime, found, limit=Limit(limit)).need.total <= limit
    if found < manifest.context_length:
        with pytest.raises(MemoryLimitError):
            fit(manifest, runtime, found + 1, limit=Limit(limit))


@pytest.mark.parametrize("command", ["run", "chat", "bench"])
def test_what_cannot_fit_is_refused_before_it_is_fetched(
    invoke: Invoke, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    def fetched(model: str) -> None:
        raise AssertionError(f"{model} is fetched")

    monkeypatch.setattr("edgelm.cli.pull_process.pull_in_child", fetched)
    prompt = ["hello"] if command == "run" else []
    refused = invoke(command, "smollm2-1.7b", *prompt, "--max-memory", "1GB")
    assert (refused.exit_code, refused.stdout) == (3, "")
    assert "smollm2-1.7b is not fetched, because it does not fit: needs 1" in refused.stderr
    assert refused.stderr.count("\n") == 1
    assert "smollm2 is fetched" in invoke(command, "smollm2", *prompt, "--max-memory", "1GB").stderr


def test_a_scheme_that_would_fit_is_named_and_then_fetched(invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgelm.cli.pull.exporter", lambda: (_ for _ in ()).throw(ConfigError("it is fetched")))
    limit = ("--max-memory", "1.75GB")
    refused = invoke("pull", "smollm2-1.7b", *limit)
    assert (refused.exit_code, refused.stderr.count("\n")) == (3, 1)
    assert refused.stderr.endswith("; or edgelm pull smollm2-1.7b --scheme int4, which fits\n")
    assert "it is fetched" in invoke("pull", "smollm2-1.7b", "--scheme", "int4", *limit).stderr
    wide = invoke("pull", "smollm2", "--scheme", "fp32", "--max-memory", "400MB")
    assert "smollm2 is not fetched, because it does not fit: needs 9" in wide.stderr, "though int8 would"
    assert "--scheme" not in invoke("pull", "smollm2-1.7b", "--max-memory", "300MB").stderr, "nor does int4 fit"
