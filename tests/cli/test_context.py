"""The context window on the command line: kept in files, and what becomes of what outgrows it."""

from __future__ import annotations

import json
import struct

import numpy as np
import pytest

from edgelm.bundle.bundle import open_bundle
from edgelm.text_side import read_tokenizer

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


def saved_text(home, path):
    """The text of the tokens that a file holds."""
    data = path.read_bytes()
    _, _, length = struct.unpack_from("<8sII", data)
    tokens = json.loads(data[16 : 16 + length])["tokens"]
    ids = np.frombuffer(data, "<i4", tokens, 16 + length)
    return read_tokenizer(open_bundle(home / "models" / "tiny")).decode(ids.tolist())


SHORT = ("-n", "2", "--set", "eos_token_id=[]")


def test_what_was_taken_back_is_not_saved(invoke, home, tmp_path):
    talk, cache = tmp_path / "talk", tmp_path / "talk.kv"
    whole = invoke("chat", "tiny", *SHORT, stdin=f"hello\nzebra\n/save --cache {talk}\n")
    assert "zebra" in saved_text(home, cache), whole.stderr
    undone = invoke("chat", "tiny", *SHORT, stdin=f"hello\nzebra\n/undo\n/save --cache {talk}\n")
    assert undone.exit_code == 0
    assert "hello" in saved_text(home, cache)
    assert "zebra" not in saved_text(home, cache)
    again = invoke("chat", "tiny", *SHORT, "--verbose", stdin=f"/load {talk}\nmore\n")
    assert "cached)" in again.stderr
    kept = invoke("chat", "tiny", *SHORT, "--prompt-cache", str(cache), stdin="hello\nzebra\n/undo\n")
    assert kept.exit_code == 0
    assert "zebra" not in saved_text(home, cache)


@pytest.mark.parametrize("line", ["/undo", "/clear"])
def test_of_an_empty_conversation_no_cache_is_left(invoke, tmp_path, line):
    talk, cache = tmp_path / "talk", tmp_path / "talk.kv"
    for stdin in (f"zebra\n{line}\n/save --cache {talk}\n", f"zebra\n/save --cache {talk}\n"):
        done = invoke("chat", "tiny", *SHORT, stdin=stdin)
        assert cache.exists() == (line not in stdin)
    assert "computed tokens saved to" in done.stderr
    replaced = invoke("chat", "tiny", *SHORT, stdin=f"zebra\n{line}\n/save --cache {talk}\n")
    assert f"the conversation is empty; {cache} of before is deleted" in replaced.stderr
    assert (replaced.exit_code, cache.exists()) == (0, False)


def test_of_another_conversation_only_what_both_share_is_saved(invoke, home, tmp_path):
    talk, other = tmp_path / "talk", tmp_path / "other"
    invoke("chat", "tiny", *SHORT, stdin=f"hello\n/save {talk}\n")
    done = invoke("chat", "tiny", *SHORT, stdin=f"zebra\n/load {talk}\n/save --cache {other}\n")
    assert f"nothing is kept of this conversation; {other}.kv is not written" in done.stderr
    assert not (tmp_path / "other.kv").exists()
    invoke("chat", "tiny", *SHORT, stdin=f"help\n/load {talk}\n/save --cache {other}\n")
    assert saved_text(home, tmp_path / "other.kv").endswith("hel"), "what both begin with"


def test_a_conversation_saved_alone_tells_of_an_older_cache(invoke, tmp_path):
    talk = tmp_path / "talk"
    result = invoke("chat", "tiny", *SHORT, stdin=f"hello\n/save --cache {talk}\n/undo\n/save {talk}\n")
    assert f"{talk}.kv is of before, and stays as it is; /save --cache replaces it" in result.stderr


def test_the_name_of_a_cache_is_not_taken_for_the_conversation(invoke, tmp_path):
    result = invoke("chat", "tiny", *SHORT, stdin=f"hello\n/save --cache {tmp_path / 't.kv'}\n")
    assert result.exit_code == 2
    assert "choose one without .kv, such as" in error_of(result)
    assert not list(tmp_path.glob("t*"))


def test_settings_that_name_tokens_by_text_do_not_keep_others_from_being_shown(invoke):
    flags = ("-l", "a=-5", "--negative-prompt", "b", "--guidance-scale", "1.5")
    result = invoke("chat", "tiny", *flags, stdin="/set max_new_tokens 2\n/show\nhello\n")
    assert result.exit_code == 0, result.stderr
