"""``edgelm run``, and the rows on the command line of the list of faults."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result
from support.bundles import write_decoder_bundle
from support.command_line import ROOT, edgelm, started

import edgelm as package
from edgelm.cli.prompt_input import MAX_PROMPT_BYTES

Invoke = Callable[..., Result]


ANSWER_SETTINGS = {"max_new_tokens": 12, "min_new_tokens": 12}
FOR_LONG = ("-n", "50000", "--min-new-tokens", "50000")
SAME_SETTINGS = ("-n", "12", "--min-new-tokens", "12")


def error_of(result: Result) -> str:
    """The one line on stderr, after nothing on stdout."""
    assert result.stdout == ""
    assert result.stderr.startswith("edgelm: error: ")
    assert result.stderr.count("\n") == 1
    return result.stderr.removeprefix("edgelm: error: ").rstrip()


@pytest.fixture
def expected(home: Path) -> str:
    """What the Python interface answers to the message ``hello``."""
    with package.load("tiny") as lm:
        return lm.chat([{"role": "user", "content": "hello"}], **ANSWER_SETTINGS).text


def test_prompt_from_everywhere(invoke: Invoke, tmp_path: Path, expected: str) -> None:
    file = tmp_path / "prömpt.txt"
    file.write_text("hello\n")
    for arguments, stdin in (
        (["hello"], b""),
        (["-p", "hello"], b""),
        (["-f", str(file)], b""),
        (["-f", "-"], b"hello\n"),
        (["-"], b"hello\r\n"),
        ([], b"hello"),
        ([], b"\xef\xbb\xbfhello\n"),
    ):
        result = invoke("run", "tiny", *arguments, *SAME_SETTINGS, stdin=stdin)
        assert (result.exit_code, result.stdout, result.stderr) == (0, f"{expected}\n", ""), arguments


def test_what_is_piped_in_beside_a_prompt_is_its_context(home: Path, tmp_path: Path) -> None:
    file = tmp_path / "notes.txt"
    file.write_text("some notes\n")
    raw = ("run", "tiny", "--raw", *SAME_SETTINGS)
    whole = edgelm(*raw, "some notes\n\nhello").stdout
    assert whole
    assert edgelm(*raw, "hello", input=b"some notes\n").stdout == whole
    assert edgelm(*raw, "-p", "hello", input=b"some notes").stdout == whole
    with file.open("rb") as stdin:
        assert edgelm(*raw, "hello", stdin=stdin, input=None).stdout == whole
    alone = edgelm(*raw, "hello", stdin=subprocess.DEVNULL, input=None).stdout
    assert alone != whole
    assert edgelm(*raw, "hello", input=b" \n").stdout == alone
    refused = edgelm(*raw, "hello", input=b"\xff")
    assert (refused.returncode, refused.stdout) == (2, b"")


def test_a_socket_is_no_context(home: Path) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        assert edgelm("run", "tiny", "hello", stdin=theirs, input=None).stderr == b""
        ours.sendall(b"text")
        done = edgelm("run", "tiny", "hello", stdin=theirs, input=None)
    assert done.returncode == 0
    assert done.stderr == b"edgelm: warning: standard input is not read: the prompt is given already\n"


def test_a_pipe_that_nobody_writes_into_is_told(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with started("run", "tiny", "hello", stdin=subprocess.PIPE) as running:
        assert running.stderr is not None
        assert b"reading standard input" in running.stderr.readline()
        assert running.stdin is not None
        running.stdin.close()
        assert running.wait(30) == 0


def test_nothing_at_all_is_no_prompt(home: Path) -> None:
    done = edgelm("run", "tiny", stdin=subprocess.DEVNULL, input=None)
    assert (done.returncode, done.stdout) == (2, b"")
    assert b"there is no prompt, and standard input is empty; give it as an argument" in done.stderr


def test_json(invoke: Invoke, expected: str) -> None:
    result = invoke("run", "tiny", "hello", "--json", *SAME_SETTINGS)
    answer = json.loads(result.stdout)
    assert list(answer) == ["model", "text", "tokens", "finish_reason", "usage", "timings", "memory"]
    assert (answer["model"], answer["text"], answer["finish_reason"]) == ("tiny", expected, "length")
    assert answer["usage"]["completion_tokens"] == len(answer["tokens"]) == 12


def test_raw_leaves_the_template_out(invoke: Invoke) -> None:
    chat = json.loads(invoke("run", "tiny", "hello", "--json").stdout)
    raw = json.loads(invoke("run", "tiny", "hello", "--json", "--raw").stdout)
    assert chat["usage"]["prompt_tokens"] == len("hello.")
    assert raw["usage"]["prompt_tokens"] == len("hello")


def test_system_prompt(invoke: Invoke, home: Path) -> None:
    answer = json.loads(invoke("run", "tiny", "hello", "--json", "--system", "be kind").stdout)
    assert answer["usage"]["prompt_tokens"] == len("be kind.hello.")
    assert "--raw" in error_of(invoke("run", "tiny", "hello", "--raw", "--system", "be kind"))
    bare = home / "models" / "bare"
    write_decoder_bundle(bare, name="bare")
    (bare / "chat_template.jinja").unlink()
    manifest = json.loads((bare / "edgelm.json").read_text())
    del manifest["files"]["chat_template.jinja"]
    (bare / "edgelm.json").write_text(json.dumps(manifest))
    assert invoke("run", "bare", "hello").exit_code == 0
    assert "bare has no chat template" in error_of(invoke("run", "bare", "hello", "--system", "be kind"))


def test_sampling_flags_imply_sampling(invoke: Invoke) -> None:
    def text(*flags: str) -> str:
        return invoke("run", "tiny", "hello", *SAME_SETTINGS, *flags).stdout

    greedy = text()
    assert text("--temperature", "50", "--seed", "1") == text("--temp", "50", "--do-sample", "--seed", "1") != greedy
    assert text("--top-p", "0.99", "--seed", "3") == text("--top-p", "0.99", "--do-sample", "--seed", "3")
    assert text("--seed", "1") == greedy


def test_a_sampling_flag_beside_greedy_is_ignored_with_a_warning(home: Path) -> None:
    done = edgelm("run", "tiny", "hello", "--greedy", "--temperature", "0.7")
    assert done.returncode == 0
    assert done.stderr == b"edgelm: warning: temperature given, but do_sample is False: ignored\n"


def test_verbose_says_what_it_cost(invoke: Invoke) -> None:
    result = invoke("run", "tiny", "hello", "--verbose", *SAME_SETTINGS)
    assert result.stderr.startswith("prompt 6 tokens at ")
    assert all(part in result.stderr for part in ("first token after", "answer 12 tokens at", "peak memory"))


def test_stop_strings(invoke: Invoke, expected: str) -> None:
    result = invoke("run", "tiny", "hello", *SAME_SETTINGS, "--stop", expected[3:5], "--stop", "zzzzzz")
    assert result.stdout == expected[: expected.index(expected[3:5])] + "\n"


def test_a_bundle_by_its_folder(invoke: Invoke, home: Path, expected: str) -> None:
    assert invoke("run", str(home / "models" / "tiny"), "hello", *SAME_SETTINGS).stdout == f"{expected}\n"


# "unknown model → 2 with near names"
def test_unknown_model(invoke: Invoke) -> None:
    result = invoke("run", "tinny", "hello")
    assert result.exit_code == 2
    assert error_of(result) == "there is no model 'tinny'; did you mean tiny?"


# "prompt = context + 1 → 2 with both counts, never silently cut"
@pytest.mark.parametrize("tokens", [64, 65, 1000])
def test_prompt_longer_than_the_context(invoke: Invoke, tokens: int) -> None:
    result = invoke("run", "tiny", "--raw", "a" * tokens)
    assert result.exit_code == 2
    assert f"the prompt has {tokens} tokens, but the context window is 64 tokens" in error_of(result)
    assert invoke("run", "tiny", "--raw", "a" * 63).exit_code == 0


# "empty prompt → starts from BOS or says why not"
def test_empty_prompt(invoke: Invoke, home: Path) -> None:
    answer = json.loads(invoke("run", "tiny", "--raw", "--json", "").stdout)
    assert answer["usage"]["prompt_tokens"] == 1
    write_decoder_bundle(home / "models" / "nobos", name="nobos", bos_token_id=None)
    result = invoke("run", "nobos", "--raw", "")
    assert result.exit_code == 2
    assert error_of(result) == "the prompt is empty, and this model has no token that starts a text"


# "invalid UTF-8 on stdin → byte offset"
def test_invalid_utf8(invoke: Invoke, tmp_path: Path) -> None:
    file = tmp_path / "latin-1.txt"
    file.write_bytes("caffè".encode("latin-1"))
    assert error_of(invoke("run", "tiny", stdin=b"abc\xffdef")) == (
        "standard input is not UTF-8: invalid byte 0xFF at offset 3"
    )
    result = invoke("run", "tiny", "-f", str(file))
    assert result.exit_code == 2
    assert error_of(result) == f"{file} is not UTF-8: invalid byte 0xE8 at offset 4"
    assert error_of(invoke("run", "tiny", "ab\udcff")) == "the prompt is not UTF-8: invalid byte 0xFF at offset 2"
    assert "--system is not UTF-8" in error_of(invoke("run", "tiny", "ab", "--system", "\udcff"))


# "`| head -1` → quiet"
def test_a_reader_that_leaves(endless: str) -> None:
    with started("run", endless, "hello", *FOR_LONG) as running:
        assert running.stdout is not None
        assert running.stdout.read(1)
        running.stdout.close()
        assert running.stderr is not None
        assert running.stderr.read() == b""
        assert running.wait(10) == 0


# "Ctrl-C in mid-token → text flushed, 130 within 1 s"
def test_ctrl_c(endless: str) -> None:
    with started("run", endless, "hello", *FOR_LONG) as running:
        assert running.stdout is not None
        first = running.stdout.read(20)
        running.send_signal(signal.SIGINT)
        pressed = time.monotonic()
        rest, said = running.communicate(timeout=10)
    assert time.monotonic() - pressed < 1
    assert (running.returncode, said) == (130, b"")
    written = (first + rest).decode().removesuffix("\n")[:200]
    with package.load(endless) as lm:
        text = lm.chat([{"role": "user", "content": "hello"}], max_new_tokens=300, min_new_tokens=300).text
    assert len(written) >= 20
    assert text.startswith(written)


# "`--max-memory 10MB` → 3 within 2 s, with what is needed"
def test_too_little_memory(home: Path) -> None:
    before = os.times()
    done = edgelm("run", "tiny", "hello", "--max-memory", "10MB")
    after = os.times()
    # Of the processor, not of the clock: other tests run beside this one.
    assert after.children_user + after.children_system - before.children_user - before.children_system < 2
    assert (done.returncode, done.stdout) == (3, b"")
    assert done.stderr.startswith(b"edgelm: error: needs ")
    assert b"the limit is 10 MB: weights " in done.stderr
    assert done.stderr.count(b"\n") == 1


# "`--temperature nan`, `--top-p 1.5`, `--top-k -1` → usage error"
@pytest.mark.parametrize(
    ("flag", "value", "words"),
    [
        ("--temperature", "nan", "temperature must be a finite number, not nan"),
        ("--temperature", "-1", "temperature must be at least 0"),
        ("--top-p", "1.5", "top_p must be above 0 and at most 1, not 1.5"),
        ("--top-p", "0", "top_p must be above 0"),
        ("--top-k", "-1", "top_k must be at least 0, not -1"),
        ("--top-k", "1.5", "'1.5' is not a valid integer"),
        ("--min-p", "inf", "min_p must be a finite number"),
        ("--repetition-penalty", "0", "repetition_penalty must be above 0"),
        ("--num-beams", "0", "num_beams must be at least 1"),
        ("--num-beam-groups", "0", "num_beam_groups must be at least 1"),
        ("--diversity-penalty", "-1", "diversity_penalty must be at least 0"),
        ("--length-penalty", "nan", "length_penalty must be a finite number"),
        ("--no-repeat-ngram-size", "-1", "no_repeat_ngram_size must be at least 0"),
        ("--max-new-tokens", "0", "max_new_tokens must be at least 1"),
        ("--min-new-tokens", "-1", "min_new_tokens must be at least 0"),
        ("--seed", "-1", "seed must be at least 0"),
        ("--stop", "", "a stop string must have 1 to 1024 characters"),
        ("--threads", "0", "threads must be from 1 to 1024"),
        ("--ctx-size", "0", "context_length must be at least 1"),
        ("--max-memory", "lots", "'lots' is not a size"),
    ],
)
def test_values_out_of_range(invoke: Invoke, flag: str, value: str, words: str) -> None:
    result = invoke("run", "tiny", "hello", flag, value)
    assert result.exit_code == 2
    message = error_of(result)
    assert f"'{flag}'" in message
    assert words in message
    assert message.endswith("(see: edgelm run --help)")


def test_values_that_exclude_each_other(invoke: Invoke) -> None:
    assert "min_new_tokens (9) is above max_new_tokens (5)" in error_of(
        invoke("run", "tiny", "hello", "-n", "5", "--min-new-tokens", "9")
    )
    groups = ("--num-beams", "4", "--num-beam-groups", "2")
    assert "num_beam_groups (2) takes the likeliest tokens: it goes without do_sample" in error_of(
        invoke("run", "tiny", "hello", *groups, "--diversity-penalty", "1", "--temperature", "0.5")
    )
    assert "num_beam_groups (2) needs a diversity_penalty" in error_of(invoke("run", "tiny", "hello", *groups))
    assert "context_length must be at most 64" in error_of(invoke("run", "tiny", "hello", "-c", "65"))
    assert "more than once" in error_of(invoke("run", "tiny", "hello", "-p", "hello"))


# "read-only home → runs"
@pytest.mark.skipif(sys.platform != "linux", reason="what root may do is taken away with a call of Linux")
def test_read_only_home(home: Path) -> None:
    before = sorted(home.rglob("*"))
    folders = [path for path in (home, *before) if path.is_dir()]
    # Root may write everywhere, unless it gives that right away.
    code = (
        "import ctypes, os, sys\n"
        "ctypes.CDLL(None).prctl(24, 1, 0, 0, 0)  # PR_CAPBSET_DROP, CAP_DAC_OVERRIDE\n"
        "os.execv(sys.executable, [sys.executable, *sys.argv[1:]])\n"
    )
    try:
        for folder in folders:
            folder.chmod(0o555)
        command = [sys.executable, "-c", code, "-m", "edgelm", "run", "tiny", "hello"]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, check=False)
    finally:
        for folder in folders:
            folder.chmod(0o755)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.endswith(b"\n")
    assert sorted(home.rglob("*")) == before


def test_bad_prompt_files(invoke: Invoke, tmp_path: Path) -> None:
    large = tmp_path / "large.txt"
    with large.open("wb") as file:
        file.truncate(MAX_PROMPT_BYTES + 1)
    for name, words in (
        (str(tmp_path / "none.txt"), "No such file"),
        (str(tmp_path), "Is a directory"),
        (str(large), "more than the 4 MB"),
        ("/dev/zero", "more than the 4 MB"),
    ):
        result = invoke("run", "tiny", "-f", name)
        assert result.exit_code == 2
        assert error_of(result).startswith(name)
        assert words in error_of(result)


def test_closed_standard_streams(home: Path) -> None:
    def call(redirection: str) -> subprocess.CompletedProcess[bytes]:
        command = f"exec {sys.executable} -m edgelm run tiny {redirection}"
        return subprocess.run(["sh", "-c", command], cwd=ROOT, capture_output=True, timeout=30, check=False)

    assert b"standard input is closed" in call("<&-").stderr
    assert call("hello >&-").returncode == 0
    assert call("hello 2>&-").returncode == 0
    refused = call("hello --temperature -1 2>&-")  # print() would put it on stdout
    assert (refused.returncode, refused.stdout) == (2, b"")


def test_beams_and_what_goes_with_them(invoke: Invoke, home: Path) -> None:
    flags = ("--num-beams", "3", "--length-penalty", "0.5", "--no-repeat-ngram-size", "2", *SAME_SETTINGS)
    settings = {"num_beams": 3, "length_penalty": 0.5, "no_repeat_ngram_size": 2, **ANSWER_SETTINGS}
    with package.load("tiny") as lm:
        answer = lm.chat([{"role": "user", "content": "hello"}], **settings)
    said = json.loads(invoke("run", "tiny", "hello", "--json", *flags).stdout)
    assert (said["tokens"], said["text"]) == (list(answer.token_ids), answer.text)
    assert said["score"] == pytest.approx(answer.score, abs=1e-5)
    assert invoke("run", "tiny", "hello", *flags).stdout == f"{answer.text}\n"
    groups = ("--num-beams", "4", "--num-beam-groups", "2", "--diversity-penalty", "0.7", *SAME_SETTINGS)
    settings = {"num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 0.7, **ANSWER_SETTINGS}
    with package.load("tiny") as lm:
        answer = lm.chat([{"role": "user", "content": "hello"}], **settings)
    assert invoke("run", "tiny", "hello", *groups).stdout == f"{answer.text}\n"
    drawn = (*flags, "--do-sample", "--seed", "3")
    assert invoke("run", "tiny", "hello", *drawn).stdout == invoke("run", "tiny", "hello", *drawn).stdout
