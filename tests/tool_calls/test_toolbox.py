"""Tools offered, called and run."""

from __future__ import annotations

import re
from typing import Any

import pytest
from support.tools import broken, get_weather, nothing

from edgelm.errors import ConfigError, TemplateError
from edgelm.results import GenerationResult, Timings, ToolCall, Usage
from edgelm.tool_calls.offer import offer
from edgelm.tool_calls.parsing import FoundCall
from edgelm.tool_calls.rounds import REFUSED, answer_with_tools, runnable
from edgelm.tool_calls.toolbox import MAX_RESULT_CHARS, MAX_TOOLS, Toolbox

SCHEMA = {"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}


def run(function: Any, **arguments: Any) -> str:
    box = Toolbox([function])
    return box.run(box.call(FoundCall(box.names[0], arguments)))


def test_schemas_and_functions_side_by_side() -> None:
    box = Toolbox([get_weather, SCHEMA, {"name": "bare"}])
    assert box.names == ("get_weather", "look", "bare")
    assert box.functions == ("get_weather",)
    assert box.schemas[1] == SCHEMA
    assert box.schemas[2] == {"type": "function", "function": {"name": "bare"}}


@pytest.mark.parametrize(
    ("tools", "words"),
    [
        (get_weather, "tools must be a list of functions or schemas, not function"),
        (SCHEMA, "tools must be a list of functions or schemas, not dict"),
        ([], f"tools must be 1 to {MAX_TOOLS}, not 0"),
        ([get_weather, get_weather], "tool get_weather is there twice"),
        ([{"type": "retrieval", "function": {}}], "a tool must be a function, or"),
        ([{"name": "a b"}], "a tool's name must be 1 to 64 letters"),
        ([{"name": "a", "parameters": {"type": "string"}}], "tool a: its parameters must be a JSON schema"),
        ([{"name": "a", "parameters": {"default": float("nan")}}], "the tools cannot be written as JSON"),
        ([{"name": "a", "parameters": {"x": object()}}], "the tools cannot be written as JSON"),
        ([{"name": "a", "description": "x" * (1 << 18)}], "more than the 262144 allowed"),
    ],
)
def test_what_is_no_tool(tools: Any, words: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(words)):
        Toolbox(tools)


def test_calls_are_held_to_the_schemas() -> None:
    box = Toolbox([get_weather])
    right = box.call(FoundCall("get_weather", {"city": "Rome"}))
    assert (right.name, right.arguments, right.fault) == ("get_weather", {"city": "Rome"}, None)
    assert re.fullmatch(r"[0-9a-z]{9}", right.id)
    assert right.id != box.call(FoundCall("get_weather", {"city": "Rome"})).id
    assert box.call(FoundCall("get_weather", {})).fault == "the argument 'city' is missing"
    assert box.call(FoundCall("rm", {})).fault == "there is no tool 'rm'; tools are: get_weather"


def test_results_are_texts() -> None:
    assert run(get_weather, city="Rome", days=2.0) == "Rome: 40 C"
    assert run(nothing) == "null"
    assert run(get_weather, town="Rome") == "error: the argument 'city' is missing"
    assert run(broken, divisor=0) == "error: ZeroDivisionError: division by zero"


def test_results_of_all_kinds() -> None:
    def give(kind: str) -> Any:
        """Give something.

        Args:
            kind: what
        """
        if kind == "exit":
            raise SystemExit(3)
        endless: list[Any] = []
        endless.append(endless)
        return {"object": {"é": [1, {2}]}, "long": "x" * 100_000, "half": "\ud800", "endless": endless}[kind]

    assert run(give, kind="object") == '{"é": [1, "{2}"]}'
    assert run(give, kind="half") == "?"
    assert run(give, kind="exit") == "error: SystemExit: 3"
    assert run(give, kind="endless").startswith("error: ValueError")
    long = run(give, kind="long")
    assert long.endswith("… (cut here; there were 100000 characters)")
    assert len(long) < MAX_RESULT_CHARS + 100


def test_ctrl_c_is_not_a_result() -> None:
    def slow() -> None:
        """Wait."""
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(slow)


def test_a_schema_cannot_be_run() -> None:
    box = Toolbox([SCHEMA])
    with pytest.raises(ConfigError, match="tool look: it is a schema, with no function"):
        box.run(box.call(FoundCall("look", {})))
    with pytest.raises(ConfigError, match="tool look is a schema, with no function that could be run"):
        runnable(box)


def test_a_template_must_have_a_place_for_tools() -> None:
    offered = offer([SCHEMA], template="<tool_call>", variables={"messages", "tools"}, model="m")
    assert offered.variables == {"tools": [SCHEMA]}
    older = offer([SCHEMA], template="", variables={"xml_tools"}, model="m")
    assert list(older.variables) == ["xml_tools"]
    with pytest.raises(TemplateError, match="m cannot call tools: its chat template has no place for them"):
        offer([SCHEMA], template="", variables={"messages"}, model="m")


def answer(*calls: ToolCall, text: str = "", reason: str | None = None) -> GenerationResult:
    reason = reason or ("tool_calls" if calls else "stop")
    return GenerationResult(text, (1,), reason, Usage(1, 0, 1), Timings(0, 0, 0), 0, tool_calls=calls)


CALL = ToolCall("abc", "get_weather", {"city": "Rome"})
QUESTION = {"role": "user", "content": "?"}


def test_rounds() -> None:
    asked: list[list[Any]] = []
    script = iter([answer(CALL, text="Let me see."), answer(ToolCall("d", "x", {}, "no x")), answer(text="20 degrees")])

    def ask(messages: Any) -> GenerationResult:
        asked.append(list(messages))
        return next(script)

    done = answer_with_tools(ask, [QUESTION], Toolbox([get_weather]))
    assert done.text == "20 degrees"
    assert list(done.messages) == [
        {"role": "assistant", "content": "Let me see.", "tool_calls": [CALL.as_dict()]},
        {"role": "tool", "tool_call_id": "abc", "name": "get_weather", "content": "Rome: 20 C"},
        {"role": "assistant", "content": "", "tool_calls": [ToolCall("d", "x", {}).as_dict()]},
        {"role": "tool", "tool_call_id": "d", "name": "x", "content": "error: no x"},
        {"role": "assistant", "content": "20 degrees"},
    ]
    assert [len(messages) for messages in asked] == [1, 3, 5]
    assert asked[2][:1] == [QUESTION]


def test_rounds_are_bounded() -> None:
    ran: list[ToolCall] = []

    def refuse(call: ToolCall) -> str:
        ran.append(call)
        return REFUSED

    done = answer_with_tools(lambda _: answer(CALL), [QUESTION], Toolbox([get_weather]), max_rounds=3, run=refuse)
    assert done.result.finish_reason == "tool_calls"
    assert len(ran) == 2
    assert [message["role"] for message in done.messages] == ["assistant", "tool"] * 2 + ["assistant"]
    with pytest.raises(ConfigError, match="max_rounds must be from 1 to 1000, not 0"):
        answer_with_tools(lambda _: answer(CALL), [QUESTION], Toolbox([get_weather]), max_rounds=0)


def test_an_answer_that_was_cut_runs_nothing() -> None:
    done = answer_with_tools(lambda _: answer(CALL, reason="length"), [QUESTION], Toolbox([get_weather]))
    assert len(done.messages) == 1
