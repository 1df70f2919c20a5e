"""``--kv-cache`` on the command line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result
from support.bundles import TinyDecoder, made_here, write_decoder_bundle
from support.encoder_bundle import write_encoder_bundle
from support.int8_cache import add_cache_scales

Invoke = Callable[..., Result]


@pytest.fixture
def eight(home: Path) -> str:
    """An installed model whose KV cache may be one of int8."""
    sizes = TinyDecoder(layers=2, context_length=600)
    made_here(add_cache_scales(write_decoder_bundle(home / "models" / "eight", sizes, name="eight")))
    return "eight"


@pytest.mark.parametrize("kind", ["f32", "int8"])
def test_an_answer(invoke: Invoke, eight: str, kind: str) -> None:
    done = invoke("run", eight, "--kv-cache", kind, "-n", "5", "--json", "hello")
    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout)["usage"]["prompt_tokens"] > 0


def test_the_benchmark_says_what_it_measured(invoke: Invoke, eight: str) -> None:
    work = ("--prompt-tokens", "20", "-n", "3")
    assert json.loads(invoke("bench", eight, "--kv-cache", "int8", *work, "--json").stdout)["kv_cache"] == "int8"
    assert json.loads(invoke("bench", eight, *work, "--json").stdout)["kv_cache"] == "f32"
    assert "KV cache int8" in invoke("bench", eight, "--kv-cache", "int8", *work).stdout
    assert "KV cache" not in invoke("bench", eight, *work).stdout


def test_other_commands_take_it(invoke: Invoke, eight: str, tmp_path: Path) -> None:
    flags = ("--kv-cache", "int8", "-n", "3")
    for arguments in (
        ("explain", eight, *flags, "hello"),
        ("compare", eight, *flags, "-p", "hello"),
        ("summarize", eight, *flags, "A text. And another one."),
        ("run", eight, *flags, "--prompt-cache", str(tmp_path / "a.kv"), "hello"),
    ):
        done = invoke(*arguments)
        assert done.exit_code == 0, (arguments, done.stderr)
    done = invoke("run", eight, "-n", "3", "--prompt-cache", str(tmp_path / "a.kv"), "hello")
    assert done.exit_code == 2
    assert "holds a KV cache of type int8, but the model is loaded with one of type f32" in done.stderr
    talk = invoke("chat", eight, "--kv-cache", "int8", "-n", "3", stdin="hello\n/bye\n")
    assert talk.exit_code == 0, talk.stderr


def test_a_replay_is_run_as_it_was_recorded(invoke: Invoke, eight: str, tmp_path: Path) -> None:
    file = str(tmp_path / "a.json")
    assert invoke("run", eight, "--kv-cache", "int8", "-n", "9", "--record", file, "hello").exit_code == 0
    done = invoke("replay", file)
    assert done.exit_code == 0, done.stdout
    assert "kv_cache" not in done.stderr
    assert "kv_cache: int8 then, f32 now" in invoke("replay", file, "--kv-cache", "f32").stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("run", "tiny", "--kv-cache", "int8", "hello"), "its bundle holds no scales for that; make it anew from the"),
        (("run", "tiny", "--kv-cache", "int4", "hello"), "'int4' is not one of 'f32', 'int8'"),
        (("embed", "coder", "--kv-cache", "int8", "hello"), "coder is an encoder, without a cache"),
        (("embed", "coder", "--kv-cache", "f32", "hello"), "--kv-cache is for models that write text"),
    ],
)
def test_refusals(invoke: Invoke, home: Path, arguments: tuple[str, ...], words: str) -> None:
    made_here(write_encoder_bundle(home / "models" / "coder"))
    done = invoke(*arguments)
    assert (done.exit_code, done.stdout) == (2, "")
    assert words in done.stderr


def test_show_says_what_a_token_takes(invoke: Invoke, eight: str) -> None:
    assert "256 B a token, in int8 64 B" in invoke("show", eight).stdout
    assert "256 B a token" not in invoke("show", "tiny").stdout
    assert "in int8" not in invoke("show", "tiny").stdout
