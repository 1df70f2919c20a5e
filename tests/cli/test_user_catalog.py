"""The user's catalog on the command line: what its entries set, and what a mistake in it stops."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result
from support.command_line import edgelm

Invoke = Callable[..., Result]
ENTRY = '[{name}]\nsource = "hf:org/tiny"\nlicense = "MIT"\ntasks = ["chat"]\ndescription = "x"\n'
MISTAKES = ["[x\n", ENTRY.format(name="mine") + 'quantization = "int3"\n', '[mine]\nsource = "hf:org/tiny"\n']


@pytest.fixture(params=MISTAKES)
def mistake(request: pytest.FixtureRequest, home: Path) -> Path:
    """A catalog that breaks a rule."""
    (home / "catalog.toml").write_text(request.param)
    return home / "catalog.toml"


@pytest.mark.parametrize("command", [("run", "tiny", "hello"), ("chat", "tiny"), ("bench", "tiny", "-n", "2")])
def test_an_installed_model_runs_and_the_mistake_is_told_once(mistake: Path, command: tuple[str, ...]) -> None:
    flags = ("--prompt-tokens", "5") if command[0] == "bench" else ()
    done = edgelm(*command, *flags, input=b"hello\n" if command[0] == "chat" else b"")
    assert done.returncode == 0, done.stderr
    (told,) = done.stderr.decode().splitlines()
    assert told.startswith("edgelm: warning: ")
    assert str(mistake) in told


def test_what_needs_no_catalog_goes_on(mistake: Path, invoke: Invoke, tmp_path: Path) -> None:
    for command in (["list"], ["show", "tiny"]):
        done = invoke(*command)
        assert (done.exit_code, done.stderr) == (0, "")
    offline = invoke("run", "hf:org/other", "hello", "--offline")
    assert "is not installed, and nothing is fetched" in offline.stderr
    assert "the file is empty" in invoke("export", str(empty_file(tmp_path / "x.gguf"))).stderr
    done = invoke("rm", "tiny")
    assert (done.exit_code, done.stderr[:12]) == (0, "deleted tiny")


def empty_file(path: Path) -> Path:
    path.touch()
    return path


@pytest.mark.parametrize("command", [("list", "--all"), ("pull", "other"), ("run", "other", "hello"), ("rm", "other")])
def test_what_needs_the_catalog_names_the_mistake(mistake: Path, invoke: Invoke, command: tuple[str, ...]) -> None:
    done = invoke(*command)
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr.startswith(f"edgelm: error: {mistake}: ")


def test_an_unknown_scheme_is_refused_when_it_is_read(home: Path, invoke: Invoke) -> None:
    (home / "catalog.toml").write_text(MISTAKES[1])
    done = invoke("pull", "mine")
    assert done.exit_code == 2
    assert "'quantization' must be one of int8, int8-block, int4, dynamic-int8, fp32, not 'int3'" in done.stderr
    assert "fetching" not in done.stderr


def test_the_context_window_of_an_entry_limits(home: Path, invoke: Invoke) -> None:
    (home / "catalog.toml").write_text(ENTRY.format(name="tiny") + "context_length = 20\n")
    refused = invoke("run", "tiny", "--raw", "a" * 20)
    assert refused.exit_code == 2
    assert "the context window is 20 tokens" in refused.stderr
    assert invoke("run", "tiny", "--raw", "a" * 20, "-c", "64").exit_code == 0
    assert invoke("bench", "tiny", "--prompt-tokens", "20", "-n", "2").exit_code == 2
    (home / "catalog.toml").write_text(ENTRY.format(name="tiny") + "context_length = 4096\n")
    assert invoke("run", "tiny", "--raw", "a" * 60).exit_code == 0
    assert invoke("run", str(home / "models" / "tiny"), "--raw", "a" * 60).exit_code == 0


def test_the_system_prompt_of_an_entry(home: Path, invoke: Invoke) -> None:
    (home / "catalog.toml").write_text(ENTRY.format(name="tiny") + 'system_prompt = "be kind"\naliases = ["wee"]\n')
    for name in ("tiny", "wee"):
        answer = json.loads(invoke("run", name, "hello", "--json").stdout)
        assert answer["usage"]["prompt_tokens"] == len("be kind.hello.")
