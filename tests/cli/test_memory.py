"""Memory on the command line: windows that memory chooses, steps that are told, refusals, and the way around them."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import pytest
from support.command_line import environment

from edgelm.config import RuntimeConfig
from edgelm.runtime.usable_memory import MemoryBound


def error_of(result):
    """The one line on stderr, after nothing on stdout."""
    assert (result.stdout, result.stderr.count("\n")) == ("", 1)
    return result.stderr


@pytest.fixture
def need(home, endless):
    """Bytes of ``endless`` for a number of tokens."""
    from edgelm.bundle.bundle import manifest_of
    from edgelm.runtime.fitting import need_of

    manifest = manifest_of(home / "models" / endless)
    return lambda tokens, **settings: need_of(manifest, RuntimeConfig(**settings), tokens).total


def test_an_automatic_window_is_as_long_as_memory_holds(invoke, endless, need):
    limit = need(20_000, prefill_chunk=32)
    result = invoke("run", endless, "hello", "-n", "3", "-c", "auto", "--max-memory", str(limit), "--json")
    memory = json.loads(result.stdout)["memory"]
    window = memory["changed"]["context_length"]
    assert 20_000 - 64 < window <= 20_000
    assert memory["limit_bytes"] == limit >= memory["estimated_bytes"]
    assert memory["peak_bytes"] > 0
    told = f"endless: to fit into memory: .*context window of {window} tokens, not 60000\n"
    assert re.fullmatch(told, result.stderr), result.stderr


def test_a_window_that_is_asked_for_must_fit(invoke, endless, need):
    arguments = ("run", endless, "hello", "-n", "3", "--max-memory", str(need(2000)))
    refused = invoke(*arguments, "-c", "60000")
    assert refused.exit_code == 3
    assert re.search(
        r"60000 tokens do not fit .*; what would: a context window of up to \d{4,5} tokens", error_of(refused)
    )
    for window in ((), ("-c", "2000"), ("-c", "auto"), ("-c", "AUTO")):
        assert invoke(*arguments, *window).exit_code == 0


def test_a_prompt_that_is_too_long_for_a_window_that_memory_chose(invoke, endless, need):
    arguments = ("run", endless, "a" * 5000, "-c", "auto", "--max-memory")
    refused = invoke(*arguments, str(need(2000, prefill_chunk=32)))
    assert refused.exit_code == 2
    assert refused.stderr.endswith("; a higher --max-memory makes it longer; --overflow sink lets it slide\n")
    assert invoke(*arguments, str(need(6000)), "-n", "1").exit_code == 0


def test_a_text_that_memory_does_not_hold_is_summarized_in_parts(invoke, endless, need):
    text = "This is a sentence of the text. " * 150
    limit = ("--max-memory", str(need(2000, prefill_chunk=32)))
    made = invoke("summarize", endless, text, "-n", "3", *limit, "--json")
    assert made.exit_code == 0, made.stderr
    assert json.loads(made.stdout)["parts"] > 1
    assert "context window of" in made.stderr
    whole = invoke("summarize", endless, text, "-n", "3", *limit, "-c", "60000")
    assert whole.exit_code == 3, "as it was asked for"


def test_without_a_limit_nothing_is_changed_or_told(invoke):
    result = invoke("run", "tiny", "hello", "--json")
    memory = json.loads(result.stdout)["memory"]
    assert (memory["limit_bytes"], memory["changed"], result.stderr) == (None, {}, "")


@pytest.mark.parametrize(
    ("given", "words"), [("some", "'some' is neither a whole number nor auto"), ("0", "must be at least 1")]
)
def test_windows_that_are_none(invoke, given, words):
    result = invoke("run", "tiny", "hello", "--ctx-size", given)
    assert result.exit_code == 2
    assert words in error_of(result)


def test_what_the_machine_has_no_memory_for_is_refused_unless_told_otherwise(invoke, monkeypatch):
    full = MemoryBound("the memory available on this machine", 30_000_000)
    monkeypatch.setattr("edgelm.runtime.process_memory.usable_memory", lambda: full)
    refused = invoke("run", "tiny", "hello")
    assert refused.exit_code == 3
    assert ", the memory available on this machine is 30 MB: weights " in error_of(refused)
    assert invoke("run", "tiny", "hello", "--no-memory-check").exit_code == 0
    assert invoke("bench", "tiny", "--prompt-tokens", "4", "-n", "2").exit_code == 3
    assert invoke("bench", "tiny", "--prompt-tokens", "4", "-n", "2", "--no-memory-check").exit_code == 0


LIMITED = """
import resource, sys
resource.setrlimit(getattr(resource, sys.argv.pop(1)), (int(sys.argv.pop(1)), resource.RLIM_INFINITY))
from edgelm.cli import main
main()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not tell how much of a limit is used")
@pytest.mark.parametrize("limit", ["RLIMIT_AS", "RLIMIT_DATA"])
@pytest.mark.parametrize("megabytes", [60, 150, 256, 400, 600, 4000])
def test_a_resource_limit_kills_nothing(home, limit, megabytes):
    command = [sys.executable, "-c", LIMITED, limit, str(megabytes * 1_000_000)]
    done = subprocess.run(
        [*command, "bench", "tiny", "--prompt-tokens", "4", "-n", "2"],
        capture_output=True,
        text=True,
        check=False,
        env=environment(EDGELM_HOME=str(home)),
    )
    assert done.returncode in (0, 3), done.stderr
    if done.returncode == 3:
        assert megabytes < 4000
        assert re.fullmatch(r"edgelm: error: .*(RLIMIT|not enough memory).*\n", done.stderr), done.stderr
