"""``edgelm chat``: from a pipe, where every line is a message, and on a terminal."""

from __future__ import annotations

import json
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result
from support.command_line import edgelm, started
from support.terminal import END, INTERRUPT, Terminal

import edgelm as package

Invoke = Callable[..., Result]
needs_terminal = pytest.mark.skipif(sys.platform == "win32", reason="has no pseudo-terminals")
SETTINGS = {"max_new_tokens": 5, "min_new_tokens": 5}
FLAGS = ("-n", "5", "--min-new-tokens", "5")


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


def expected_answers(*questions: str, system: str | None = None) -> list[str]:
    """What the Python interface answers, turn by turn."""
    messages = [] if system is None else [{"role": "system", "content": system}]
    answers = []
    with package.load("tiny") as lm:
        for question in questions:
            messages.append(user(question))
            answers.append(lm.chat(messages, **SETTINGS).text)
            messages.append(assistant(answers[-1]))
    return answers


def test_a_piped_conversation_is_kept(invoke: Invoke) -> None:
    result = invoke("chat", "tiny", *FLAGS, stdin="hello\n\nand now\r\n")
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout == "".join(f"{answer}\n" for answer in expected_answers("hello", "and now"))


def test_later_turns_come_from_the_cache(invoke: Invoke) -> None:
    result = invoke("chat", "tiny", *FLAGS, "--verbose", stdin="hello\nand now\n")
    first, second = result.stderr.splitlines()
    assert first.startswith("prompt 6 tokens at ")
    assert " cached)" in second


def test_several_lines_are_one_message(invoke: Invoke, tmp_path: Path) -> None:
    file = tmp_path / "talk.json"
    invoke("chat", "tiny", *FLAGS, stdin=f'"""one\n two\n"""\n"""three"""\n/save {file}\n')
    questions = [message["content"] for message in json.loads(file.read_text()) if message["role"] == "user"]
    assert questions == ["one\n two", "three"]
    result = invoke("chat", "tiny", stdin='"""one\ntwo\n')
    assert result.exit_code == 2
    assert 'does not end with """' in result.stderr


def test_save_and_load(invoke: Invoke, tmp_path: Path) -> None:
    file = tmp_path / "my 🦙 talk.json"
    result = invoke("chat", "tiny", *FLAGS, "--system", "be kind", stdin=f"hello\n/save {file}\n/save {file}\n")
    assert result.exit_code == 0
    (first,) = expected_answers("hello", system="be kind")
    assert json.loads(file.read_text(encoding="utf-8")) == [
        {"role": "system", "content": "be kind"},
        user("hello"),
        assistant(first),
    ]
    result = invoke("chat", "tiny", *FLAGS, stdin=f"/load {file}\nmore\n")
    assert result.stdout == expected_answers("hello", "more", system="be kind")[1] + "\n"
    assert "loaded 1 question," in result.stderr


def test_save_overwrites_nothing_but_conversations(invoke: Invoke, tmp_path: Path) -> None:
    file = tmp_path / "thesis.txt"
    file.write_text("years of work")
    result = invoke("chat", "tiny", stdin=f"/save {file}\n")
    assert result.exit_code == 2
    assert "is no saved conversation" in result.stderr
    assert file.read_text() == "years of work"


def test_an_empty_question_can_be_undone(invoke: Invoke, tmp_path: Path) -> None:
    file = tmp_path / "talk.json"
    file.write_text(json.dumps([user(""), assistant("x")]))
    result = invoke("chat", "tiny", stdin=f"/load {file}\n/undo\n/set\tseed\t3\n")
    assert result.exit_code == 0
    assert result.stderr.splitlines()[-2:] == ["taken back:", "seed = 3 (greedy)"]


def test_undo_clear_and_system(invoke: Invoke) -> None:
    result = invoke(
        "chat", "tiny", *FLAGS, stdin="one\ntwo\n/undo\nthree\n/clear\n/system be kind\nfour\n/undo\n/undo\n"
    )
    one, three = expected_answers("one", "three")
    (four,) = expected_answers("four", system="be kind")
    answers = result.stdout.splitlines()
    assert [answers[0], answers[2], answers[3]] == [one, three, four]
    assert result.stderr.splitlines() == [
        "taken back: two",
        "the conversation starts anew",
        "system prompt set",
        "taken back: four",
        "there is nothing to undo",
    ]


def test_what_is_taken_back_shows_its_lines(invoke: Invoke, tmp_path: Path) -> None:
    file = tmp_path / "talk.json"
    file.write_text(json.dumps([user("one\n two\n\nthree"), {"role": "assistant", "content": "x"}]))
    result = invoke("chat", "tiny", stdin=f"/load {file}\n/undo\n")
    assert result.stderr.splitlines()[-1] == "taken back: one ↵ two ↵  ↵ three"


@pytest.mark.parametrize("line", ["/set top_k 5", "/set top_k=5", "/set top-k = 5"])
def test_settings_may_be_typed_with_a_sign(invoke: Invoke, line: str) -> None:
    assert invoke("chat", "tiny", stdin=line).stderr.splitlines() == ["top_k = 5 (sampling)"]


def test_a_value_may_have_a_sign(invoke: Invoke) -> None:
    assert invoke("chat", "tiny", stdin="/set stop a=b").stderr.splitlines() == ["stop_strings = 'a=b'"]


def test_settings(invoke: Invoke) -> None:
    lines = ["/set temp 50", "/set seed 7", "/set max-tokens 5", "/set stop zz", "/set top_k 0", "/set do_sample off"]
    result = invoke("chat", "tiny", stdin="\n".join([*lines, "/set temperature default", "/show"]))
    assert result.exit_code == 0
    said = result.stderr.splitlines()
    assert said[:7] == [
        "temperature = 50.0 (sampling)",
        "seed = 7 (sampling)",
        "max_new_tokens = 5",
        "stop_strings = 'zz'",
        "top_k = 0 (sampling)",
        "do_sample = False",
        "temperature = 1.0 (greedy)",
    ]
    shown = "\n".join(said[7:])
    assert "tiny, llama, fp32" in shown
    assert "0 of 64 tokens used" in shown
    assert "max_new_tokens            5" in shown


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("/set topk 3", "'topk' is no setting; did you mean top_k"),
        ("/set qqq 3", "'qqq' is no setting; known are: max_new_tokens, min_new_tokens, do_sample"),
        ("/set top_k=abc", "top_k must be a whole number, not 'abc'"),
        ("/set top_k", "/set top_k VALUE; default gives it back its own"),
        ("/set", "/set NAME VALUE"),
        ("/set top_p 1.5", "top_p must be above 0 and at most 1, not 1.5"),
        ("/set top_k 1.5", "top_k must be a whole number, not '1.5'"),
        ("/set temperature nan", "temperature must be a finite number"),
        ("/set do_sample perhaps", "do_sample must be true or false"),
        ("/set eos_token_id end", "eos_token_id must be written as JSON"),
        ("/sett", "there is no command '/sett'; did you mean /set?"),
        ("/", "there is no command '/'"),
        ("/save", "/save needs the name of a file"),
        ("/load none.json", "none.json: No such file"),
        ("x" * 64, "but the context window is 64 tokens"),
        ("caf\xff", "standard input from byte 0 on is not UTF-8: invalid byte 0xFF at offset 3"),
    ],
)
def test_a_mistake_in_a_pipe_ends_it(invoke: Invoke, line: str, words: str) -> None:
    result = invoke("chat", "tiny", stdin=line.encode("latin-1") + b"\nnever asked\n")
    assert (result.exit_code, result.stdout) == (2, "")
    assert words in result.stderr


def test_bye_and_help(invoke: Invoke) -> None:
    result = invoke("chat", "tiny", stdin="/help\n/bye\nnever asked\n")
    assert (result.exit_code, result.stdout) == (0, "")
    assert all(name in result.stderr for name in ("/set", "/show", "/system", "/undo", "/clear", "/save", "/load"))


def test_a_path_is_no_command(invoke: Invoke) -> None:
    result = invoke("chat", "tiny", *FLAGS, stdin="/etc/hosts what is it\n")
    assert result.stdout == expected_answers("/etc/hosts what is it")[0] + "\n"


def test_a_model_without_a_template(invoke: Invoke, home: Path) -> None:
    folder = home / "models" / "tiny"
    manifest = json.loads((folder / "edgelm.json").read_text())
    del manifest["files"]["chat_template.jinja"]
    (folder / "edgelm.json").write_text(json.dumps(manifest))
    result = invoke("chat", "tiny", stdin="hello\n")
    assert result.exit_code == 2
    assert "tiny has no chat template, so it cannot chat; use: edgelm run tiny" in result.stderr


def test_an_interrupt_ends_a_pipe(endless: str) -> None:
    with started("chat", endless, "-n", "50000", "--min-new-tokens", "50000", stdin=-1) as running:
        assert running.stdin is not None
        assert running.stdout is not None
        running.stdin.write(b"hello\n")
        running.stdin.flush()
        assert running.stdout.read(10)
        running.send_signal(signal.SIGINT)
        pressed = time.monotonic()
        running.stdout.read()
        assert running.wait(5) == 130
    assert time.monotonic() - pressed < 1


@needs_terminal
def test_on_a_terminal(home: Path, tmp_path: Path) -> None:
    with Terminal("chat", "tiny", *FLAGS, "--verbose") as terminal:
        assert "tiny, fp32, 64 tokens of context" in terminal.wait_for(">>> ")
        terminal.type("hello\n")
        assert expected_answers("hello")[0] in terminal.wait_for(">>> ").replace("\r\n", "\n")
        terminal.type("/sett\n")
        terminal.wait_for("did you mean /set?")
        terminal.wait_for(">>> ")
        terminal.type('"""a\n')
        terminal.wait_for("... ")
        terminal.type('b"""\n')
        assert " cached)" in terminal.wait_for(">>> ")
        terminal.type("x" * 64 + "\n")
        terminal.wait_for("the context window is 64 tokens")
        terminal.wait_for(">>> ")
        terminal.type("half a line")
        terminal.wait_for("half a line")
        terminal.until_it_reads()
        terminal.type(INTERRUPT)
        terminal.wait_for("(Ctrl-D or /bye leaves)")
        terminal.wait_for(">>> ")
        terminal.type("/show\n")
        terminal.wait_for("questions                 2")
        terminal.wait_for(">>> ")
        terminal.type(END)
        assert terminal.end() == 0


@needs_terminal
def test_ctrl_c_stops_the_answer_and_keeps_it(endless: str, tmp_path: Path) -> None:
    file = tmp_path / "talk.json"
    with Terminal("chat", endless, "--min-new-tokens", "50000", "-n", "50000") as terminal:
        terminal.wait_for(">>> ")
        terminal.type("hello\n")
        terminal.wait_for("hello\r\n")
        terminal.wait_for(".")
        terminal.type(INTERRUPT)
        terminal.wait_for(">>> ")
        terminal.type(f"/save {file}\n")
        terminal.wait_for("saved to")
        terminal.wait_for(">>> ")
        terminal.type("/set max_new_tokens 5\n/set min_new_tokens 0\nmore\n")
        terminal.wait_for("min_new_tokens = 0")
        terminal.wait_for(">>> ")
        terminal.wait_for(">>> ")
        terminal.type(END)
        assert terminal.end() == 0
    first, answer = json.loads(file.read_text())
    assert first == user("hello")
    assert answer["role"] == "assistant"
    assert len(answer["content"]) > 1


def test_chat_on_real_streams(home: Path) -> None:
    done = edgelm("chat", "tiny", *FLAGS, input=b"hello\n")
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.decode() == expected_answers("hello")[0] + "\n"
