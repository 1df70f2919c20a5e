"""``--tools``: calls are shown by ``run``, and run by ``chat`` after the user agreed."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result
from support import tool_templates
from support.reply_bundle import write_reply_bundle
from support.terminal import END, INTERRUPT, Terminal

Invoke = Callable[..., Result]
needs_terminal = pytest.mark.skipif(sys.platform == "win32", reason="has no pseudo-terminals")

ARGUMENTS = {"city": "Rome", "days": 2}
TOOLS = '''
import time

def get_weather(city: str, days: int) -> str:
    """Tell the weather of a city.

    Args:
        city: The name of the city.
        days: How many days ahead.
    """
    print(f"looking at {city}")
    if city == "Nowhere":
        raise LookupError("no such city")
    if city == "Slow":
        print("waiting", flush=True)
        time.sleep(60)
    return f"{city}: {20 * days}"

def _private() -> None:
    """Not a tool."""
'''


def script(city: str = "Rome") -> list[str]:
    call = json.dumps({"name": "get_weather", "arguments": {"city": city, "days": 2}})
    return ["Let me", " see.", f"\n<tool_call>\n{call}", "\n</tool_call>"]


@pytest.fixture
def caller(home: Path) -> Callable[..., str]:
    """Makes models that call ``get_weather`` for a city, and then say that it is warm."""

    def make(city: str = "Rome") -> str:
        template = tool_templates.QWEN + "{{- '!' if messages[-1].role == 'tool' else '?' }}"
        replies = {"?": script(city), "!": ["It is", " warm."]}
        write_reply_bundle(home / "models" / "caller", replies, template=template, name="caller")
        return "caller"

    return make


@pytest.fixture
def tools(tmp_path: Path) -> str:
    file = tmp_path / "my tools.py"
    file.write_text(TOOLS)
    return str(file)


def test_run_shows_calls_and_runs_none(invoke: Invoke, caller: Callable[..., str], tools: str) -> None:
    result = invoke("run", caller(), "--tools", tools, "How warm is it?")
    assert (result.exit_code, result.stderr) == (0, "")
    said, call = result.stdout.splitlines()
    assert said == "Let me see."
    assert json.loads(call)["function"] == {"name": "get_weather", "arguments": ARGUMENTS}


def test_run_as_json(invoke: Invoke, caller: Callable[..., str], tools: str) -> None:
    result = invoke("run", caller(), "--tools", tools, "--json", "How warm is it?")
    fields = json.loads(result.stdout)
    assert (fields["text"], fields["finish_reason"]) == ("Let me see.", "tool_calls")
    (call,) = fields["tool_calls"]
    assert re.fullmatch(r"[0-9a-z]{9}", call.pop("id"))
    assert call == {"type": "function", "function": {"name": "get_weather", "arguments": ARGUMENTS}}


def test_run_takes_schemas(invoke: Invoke, caller: Callable[..., str], tmp_path: Path) -> None:
    file = tmp_path / "tools.json"
    file.write_text(json.dumps([{"type": "function", "function": {"name": "look_up", "parameters": {}}}]))
    fields = json.loads(invoke("run", caller(), "--tools", str(file), "--json", "How warm is it?").stdout)
    assert fields["tool_calls"][0]["fault"] == "there is no tool 'get_weather'; tools are: look_up"


def test_chat_runs_tools_unasked_only_when_told_to(invoke: Invoke, caller: Callable[..., str], tools: str) -> None:
    refused = invoke("chat", caller(), "--tools", tools, stdin="How warm is it?\n")
    assert (refused.exit_code, refused.stdout) == (2, "")
    assert "--tools needs a terminal to ask on before a tool is run; --yes-tools runs them unasked" in refused.stderr
    result = invoke("chat", "caller", "--tools", tools, "--yes-tools", stdin="How warm is it?\n")
    assert result.exit_code == 0
    assert result.stdout == "Let me see.\nIt is warm.\n"
    assert result.stderr.splitlines() == ['→ get_weather(city="Rome", days=2)', "looking at Rome", "← Rome: 40"]


def test_exceptions_are_for_the_model(invoke: Invoke, caller: Callable[..., str], tools: str) -> None:
    result = invoke("chat", caller("Nowhere"), "--tools", tools, "--yes-tools", stdin="How warm is it?\n")
    assert (result.exit_code, result.stdout) == (0, "Let me see.\nIt is warm.\n")
    assert result.stderr.splitlines()[-1] == "← error: LookupError: no such city"


def test_calls_are_kept_saved_and_undone(
    invoke: Invoke, caller: Callable[..., str], tools: str, tmp_path: Path
) -> None:
    file = tmp_path / "talk.json"
    flags = ("--tools", tools, "--yes-tools")
    result = invoke("chat", caller(), *flags, stdin=f"How warm is it?\n/save {file}\n")
    assert result.exit_code == 0
    saved = json.loads(file.read_text())
    assert [message["role"] for message in saved] == ["user", "assistant", "tool", "assistant"]
    assert saved[2]["tool_call_id"] == saved[1]["tool_calls"][0]["id"]
    result = invoke("chat", "caller", *flags, stdin=f"/load {file}\nAnd now?\n/undo\n/undo\n/undo\n")
    assert result.exit_code == 0
    said = [line for line in result.stderr.splitlines() if not line.startswith(("→", "←", "looking"))]
    assert said[0].startswith("loaded 1 question, ")
    assert said[1:] == ["taken back: And now?", "taken back: How warm is it?", "there is nothing to undo"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda m: m[1].update(tool_calls=[]), "[1]: tool_calls must be a list of calls, of the role 'assistant'"),
        (lambda m: m[0].update(tool_calls=[{}]), "[0]: tool_calls must be a list of calls, of the role 'assistant'"),
        (lambda m: m[1].update(tool_calls=[{"function": 1}]), "must have a function with a name and arguments"),
        (lambda m: m.pop(1), "[1] must be of the role 'assistant', not 'tool'"),
        (lambda m: m.pop(2), "[2] must be of the role 'tool', not 'assistant'"),
        (lambda m: m.pop(3), "the last question has no answer"),
        (lambda m: m[2].pop("tool_call_id"), "[2] must be an object with role and content"),
        (lambda m: m[2].update(content=3), "[2]: role and content must be strings"),
        (lambda m: m[2].update(role=[]), "[2] must be an object with role and content"),
    ],
)
def test_a_saved_conversation_is_read_strictly(
    invoke: Invoke, tmp_path: Path, change: Callable[[list[dict[str, object]]], object], words: str
) -> None:
    call = {"id": "abcdefghi", "type": "function", "function": {"name": "f", "arguments": {}}}
    messages: list[dict[str, object]] = [
        {"role": "user", "content": "?"},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "abcdefghi", "name": "f", "content": "1"},
        {"role": "assistant", "content": "one"},
    ]
    change(messages)
    file = tmp_path / "talk.json"
    file.write_text(json.dumps(messages))
    result = invoke("chat", "tiny", stdin=f"/load {file}\n")
    assert result.exit_code == 2
    assert words in result.stderr


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("x = 1", "defines no public function"),
        ("def f(:", "cannot be imported: SyntaxError"),
        ("raise ValueError('no')", "cannot be imported: ValueError: no"),
        ("raise SystemExit(3)", "cannot be imported: SystemExit: 3"),
        ("def f(x): 'Doc.'", "tool f: argument 'x' has no type hint"),
        ("from json import dumps", "defines no public function"),
    ],
)
def test_files_that_are_refused(
    invoke: Invoke, caller: Callable[..., str], tmp_path: Path, source: str, words: str
) -> None:
    file = tmp_path / "tools.py"
    file.write_text(source)
    for command in ("run", "chat"):
        result = invoke(command, caller(), "--tools", str(file), *(["--yes-tools"] if command == "chat" else ["hello"]))
        assert (result.exit_code, result.stdout) == (2, "")
        assert words in result.stderr
        assert result.stderr.count("\n") == 1


def test_what_does_not_go_together(invoke: Invoke, caller: Callable[..., str], tools: str, tmp_path: Path) -> None:
    schemas = tmp_path / "tools.json"
    schemas.write_text('{"a": 1, "a": 2}')
    for arguments, words in (
        (("run", caller(), "--raw", "--tools", tools, "x"), "--tools is for the chat template, which --raw"),
        (("run", "caller", "--tools", "none.py", "x"), "none.py: no such file"),
        (("run", "caller", "--tools", str(schemas), "x"), "key 'a' occurs twice"),
        (("run", "caller", "--tools", "none.json", "x"), "none.json: No such file"),
        (("run", "tiny", "--tools", tools, "x"), "tiny cannot call tools: its chat template has no place for them"),
        (("chat", "tiny", "--tools", tools, "--yes-tools"), "tiny cannot call tools"),
        (("chat", "tiny", "--tools", tools), "such as qwen2.5-0.5b of the catalog"),
        (("chat", "not-here", "--tools", tools), "--tools needs a terminal to ask on"),
        (("chat", "caller", "--tools", str(schemas), "--yes-tools"), "come from a Python file"),
        (("chat", "caller", "--yes-tools"), "--yes-tools goes with --tools"),
    ):
        result = invoke(*arguments)
        assert (result.exit_code, result.stdout) == (2, ""), arguments
        assert words in result.stderr


@needs_terminal
def test_on_a_terminal_the_user_is_asked(caller: Callable[..., str], tools: str) -> None:
    question = "run it? [y]es, [n]o, [a]lways in this conversation: "
    with Terminal("chat", caller(), "--tools", tools) as terminal:
        terminal.wait_for(">>> ")
        terminal.type("How warm is it?\n")
        assert '→ get_weather(city="Rome", days=2)' in terminal.wait_for(question)
        terminal.type("n\n")
        assert "looking" not in terminal.wait_for("It is warm.")
        terminal.wait_for(">>> ")
        terminal.type("And now?\n")
        terminal.wait_for(question)
        terminal.type("perhaps\n")
        terminal.wait_for(question)
        terminal.type("a\n")
        terminal.wait_for("← Rome: 40")
        terminal.wait_for(">>> ")
        terminal.type("And now?\n")
        assert question not in terminal.wait_for("It is warm.")
        terminal.wait_for(">>> ")
        terminal.type("/clear\n")
        terminal.wait_for(">>> ")
        terminal.type(END)
        assert terminal.end() == 0


@needs_terminal
def test_ctrl_c_leaves_a_tool_and_comes_back(caller: Callable[..., str], tools: str) -> None:
    with Terminal("chat", caller("Slow"), "--tools", tools) as terminal:
        terminal.wait_for(">>> ")
        terminal.type("How warm is it?\n")
        terminal.wait_for("conversation: ")
        terminal.type("y\n")
        terminal.wait_for("waiting")
        terminal.type(INTERRUPT)
        terminal.wait_for("the question is withdrawn", seconds=5)
        terminal.wait_for(">>> ")
        terminal.type("/show\n")
        terminal.wait_for("0 of 4096 tokens used")
        terminal.wait_for(">>> ")
        terminal.type("Again?\n")
        terminal.wait_for("conversation: ")
        terminal.until_it_reads()
        terminal.type(INTERRUPT)
        terminal.wait_for("the question is withdrawn")
        terminal.wait_for(">>> ")
        terminal.type(END)
        assert terminal.end() == 0


@needs_terminal
def test_ctrl_c_stops_an_answer_that_shows_no_text(caller: Callable[..., str], tools: str) -> None:
    # Behind the call, the model says a token without text for as long as it is let.
    for_long = ("-n", "4000", "--min-new-tokens", "4000")
    with Terminal("chat", caller(), "--tools", tools, "--verbose", *for_long) as terminal:
        terminal.wait_for(">>> ")
        terminal.type("How warm is it?\n")
        terminal.wait_for("Let me see.")
        terminal.type(INTERRUPT)
        assert "first token after" not in terminal.wait_for(">>> ")
        terminal.type(END)
        assert terminal.end() == 0
