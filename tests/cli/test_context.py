"""The context window on the command line: kept in files, and what becomes of what outgrows it."""

from __future__ import annotations

import json

import pytest

FLAGS = ("-n", "4", "--set", "eos_token_id=[]")


@pytest.fixture
def file(tmp_path):
    return tmp_path / "a.kv"


def error_of(result):
    return result.stderr.splitlines()[-1]


def usage(result):
    return json.loads(result.stdout)["usage"]


def test_a_prompt_is_computed_once_for_two_processes(invoke, file):
    first = invoke("run", "tiny", *FLAGS, "--json", "--prompt-cache", str(file), "hello there")
    assert (usage(first)["cached_tokens"], file.read_bytes()[:8]) == (0, b"EDGELMKV")
    second = invoke("run", "tiny", *FLAGS, "--json", "--verbose", "--prompt-cache", str(file), "hello there")
    assert usage(second)["cached_tokens"] == usage(second)["prompt_tokens"] - 1
    assert json.loads(second.stdout)["tokens"] == json.loads(first.stdout)["tokens"]
    assert "tokens of a prompt that was computed before" in second.stderr


def test_a_file_of_something_else_is_refused_and_stays(invoke, file):
    file.write_text("my own")
    result = invoke("run", "tiny", "--prompt-cache", str(file), "hello")
    assert result.exit_code == 2
    assert "is no saved KV cache" in error_of(result)
    assert file.read_text() == "my own"


def test_beams_leave_nothing_to_write_and_say_so(invoke, file):
    result = invoke("run", "tiny", *FLAGS, "--num-beams", "2", "--prompt-cache", str(file), "hello")
    assert result.exit_code == 0
    assert "not written; there is no KV cache to save" in result.stderr
    assert not file.exists()


def test_a_chat_goes_on_in_another_process(invoke, tmp_path):
    talk = tmp_path / "talk.json"
    invoke("chat", "tiny", *FLAGS, stdin=f"hello\n/save --cache {talk}\n")
    assert sorted(path.name for path in tmp_path.glob("talk*")) == ["talk.json", "talk.json.kv"]
    result = invoke("chat", "tiny", *FLAGS, "--verbose", stdin=f"/load {talk}\nmore\n")
    assert "computed tokens loaded from" in result.stderr
    assert "cached)" in result.stderr
    other = invoke("chat", "tiny", *FLAGS, stdin=f"/load {talk}\nmore\n/save {talk}2\n")
    assert other.stdout == result.stdout
    assert not (tmp_path / "talk.json2.kv").exists(), "only where it is asked for"


def test_a_cache_beside_a_conversation_that_is_broken_is_told_and_not_needed(invoke, tmp_path):
    talk = tmp_path / "talk.json"
    invoke("chat", "tiny", *FLAGS, stdin=f"hello\n/save --cache {talk}\n")
    beside = tmp_path / "talk.json.kv"
    beside.write_bytes(beside.read_bytes()[:-9])
    result = invoke("chat", "tiny", *FLAGS, stdin=f"/load {talk}\nmore\n")
    assert result.exit_code == 0
    assert "the conversation is computed anew" in result.stderr


def test_a_file_that_is_none_is_not_written_over(invoke, tmp_path):
    (tmp_path / "talk.json.kv").write_text("my own")
    result = invoke("chat", "tiny", *FLAGS, stdin=f"hello\n/save --cache {tmp_path / 'talk.json'}\n")
    assert "is no saved KV cache; choose another name" in error_of(result)
    assert (tmp_path / "talk.json.kv").read_text() == "my own"


def test_a_chat_keeps_its_cache_in_a_file(invoke, file):
    invoke("chat", "tiny", *FLAGS, "--prompt-cache", str(file), stdin="hello\n")
    result = invoke("chat", "tiny", *FLAGS, "--verbose", "--prompt-cache", str(file), stdin="hello\n")
    assert "cached)" in result.stderr


LONG = "".join(f"{word} is a long question\n" for word in ("one", "two", "three", "four"))


def test_a_chat_that_outgrows_the_window_is_refused_with_the_ways_on(invoke):
    result = invoke("chat", "tiny", *FLAGS, stdin=LONG)
    assert result.exit_code == 2
    assert "/clear begins anew, and /set overflow drop-oldest (or sink) goes on" in error_of(result)


@pytest.mark.parametrize(("policy", "told"), [("drop-oldest", "turn"), ("sink", "tokens)")])
def test_a_chat_goes_on_past_the_window_and_says_what_is_dropped(invoke, policy, told):
    result = invoke("chat", "tiny", *FLAGS, "--overflow", policy, stdin=LONG)
    assert result.exit_code == 0
    assert len(result.stdout.splitlines()) >= 4
    assert "(the context window is full; dropped: " in result.stderr
    assert told in result.stderr
    assert "dropped" not in result.stdout


def test_the_policy_is_set_while_talking(invoke):
    result = invoke("chat", "tiny", *FLAGS, stdin=f"/set overflow sink\n{LONG}")
    assert result.exit_code == 0
    assert "overflow = sink" in result.stderr


def test_an_answer_goes_on_past_the_window(invoke):
    flags = ("-n", "100", "--set", "eos_token_id=[]", "--json", "--overflow", "sink")
    result = invoke("run", "tiny", *flags, "hello")
    assert usage(result)["completion_tokens"] == 100
    assert usage(result)["dropped_tokens"] > 0
    assert "dropped: " in result.stderr


def test_an_unknown_policy_is_a_usage_error(invoke):
    result = invoke("run", "tiny", "--overflow", "slide", "hello")
    assert result.exit_code == 2
    assert "'slide' is not one of 'refuse', 'drop-oldest', 'sink'" in error_of(result)
