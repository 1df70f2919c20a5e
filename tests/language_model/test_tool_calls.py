"""Tools through the whole of a model: rendered by its template, called in its answers, run."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support import tool_templates
from support.reply_bundle import write_reply_bundle
from support.tools import get_weather

import edgelm
from edgelm.errors import ConfigError, PromptError, TemplateError
from edgelm.results import ToolCall
from edgelm.tool_calls.schema import function_schema

Load = Callable[..., edgelm.LanguageModel]

QUESTION = {"role": "user", "content": "How warm is it in Rome?"}
# The prompt's last character says whose turn it was, so that the model of ``reply_bundle`` knows what to say.
ENDED = "{{- '!' if messages[-1].role == 'tool' else '?' }}"
ARGUMENTS = {"city": "Rome", "days": 2}
CALL = {"name": "get_weather", "arguments": ARGUMENTS}
FORMS: dict[str, tuple[list[str], set[str]]] = {
    "qwen": (["Let me", " see.", "\n", "<tool_call>", f"\n{json.dumps(CALL)}", "\n</tool_call>"], {"<tool_call>"}),
    "llama": (["<|python_tag|>", '{"name": "get_weather",', f' "parameters": {json.dumps(ARGUMENTS)}}}'], set()),
    "mistral": (["[TOOL_CALLS]", f"[{json.dumps(CALL)}", "]"], {"[TOOL_CALLS]"}),
}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Models that call ``get_weather`` and then tell the weather, each in the manner of a family."""
    root = tmp_path_factory.mktemp("callers")
    return {
        name: write_reply_bundle(
            root / name,
            {"?": FORMS[name][0], "!": ["It is", " warm."]},
            template=template + ENDED,
            special=FORMS[name][1],
            name=name,
        )
        for name, template in tool_templates.ALL.items()
    }


@pytest.mark.parametrize("name", FORMS)
def test_calls_are_parsed(models: dict[str, Path], load: Load, name: str) -> None:
    answer = load(models[name]).chat([QUESTION], tools=[get_weather])
    assert answer.finish_reason == "tool_calls"
    assert answer.text == ("Let me see." if name == "qwen" else "")
    (call,) = answer.tool_calls
    assert (call.name, call.arguments, call.fault) == ("get_weather", ARGUMENTS, None)
    values = answer.as_dict()
    assert values["tool_calls"] == [{"id": call.id, "type": "function", "function": CALL}]
    json.dumps(values)


@pytest.mark.parametrize("name", FORMS)
def test_a_call_does_not_stream_as_text(models: dict[str, Path], load: Load, name: str) -> None:
    with load(models[name]).stream_chat([QUESTION], tools=[get_weather]) as stream:
        chunks = list(stream)
    assert [chunk.text for chunk in chunks[:-1]] == (["Let me", " see."] if name == "qwen" else [])
    assert (chunks[-1].text, chunks[-1].finish_reason) == ("", "tool_calls")
    assert chunks[-1].tool_calls == stream.result.tool_calls
    assert stream.text == stream.result.text


@pytest.mark.parametrize("name", FORMS)
def test_functions_are_run_and_the_model_told(models: dict[str, Path], load: Load, name: str) -> None:
    done = load(models[name]).chat_with_tools([QUESTION], [get_weather], max_new_tokens=40)
    assert done.text == "It is warm."
    asked, told, answered = done.messages
    assert asked["tool_calls"][0]["function"] == CALL
    assert told["content"] == "Rome: 40 C"
    assert told["tool_call_id"] == asked["tool_calls"][0]["id"]
    assert answered == {"role": "assistant", "content": "It is warm."}


def test_tools_stand_in_the_prompt_as_transformers_puts_them(models: dict[str, Path], load: Load) -> None:
    lm = load(models["qwen"])
    with_tools = lm.tokenizer.decode(lm.encode_chat([QUESTION], tools=[get_weather]))
    assert json.dumps(function_schema(get_weather)) in with_tools
    assert with_tools.startswith("<|im_start|>system\n# Tools")
    assert lm.encode_chat([QUESTION], tools=[function_schema(get_weather)]) == lm.encode_chat(
        [QUESTION], tools=[get_weather]
    )
    assert "# Tools" not in lm.tokenizer.decode(lm.encode_chat([QUESTION]))


def test_without_tools_a_call_is_text(models: dict[str, Path], load: Load) -> None:
    answer = load(models["llama"]).chat([QUESTION])
    assert (answer.finish_reason, answer.tool_calls) == ("stop", ())
    assert answer.text == "".join(FORMS["llama"][0])
    assert "tool_calls" not in answer.as_dict()


def test_arguments_as_openai_writes_them(models: dict[str, Path], load: Load) -> None:
    lm = load(models["qwen"])
    call = ToolCall("abcdefghi", "get_weather", ARGUMENTS).as_dict()
    written = {**call, "function": {**call["function"], "arguments": json.dumps(ARGUMENTS)}}
    result = {"role": "tool", "tool_call_id": "abcdefghi", "name": "get_weather", "content": "20"}
    messages = [
        [QUESTION, {"role": "assistant", "content": "", "tool_calls": [one]}, result] for one in (call, written)
    ]
    assert lm.encode_chat(messages[0]) == lm.encode_chat(messages[1])
    assert lm.chat(messages[0], tools=[get_weather]).text == "It is warm."


@pytest.mark.parametrize(
    ("calls", "words"),
    [
        (3, "messages[1].tool_calls must be a list of calls, not 3"),
        ([3], "messages[1].tool_calls must be a list of calls"),
        ([{"function": "x"}], "messages[1].tool_calls[0] must have a function with a name and arguments"),
        ([{"function": {"name": "f", "arguments": "{"}}], "messages[1].tool_calls[0]: the arguments must be an object"),
        ([{"function": {"name": "f", "arguments": []}}], "the arguments must be an object, not []"),
    ],
)
def test_broken_calls_in_messages_are_refused(models: dict[str, Path], load: Load, calls: Any, words: str) -> None:
    with pytest.raises(PromptError, match=re.escape(words)):
        load(models["qwen"]).chat([QUESTION, {"role": "assistant", "content": "", "tool_calls": calls}])


def test_an_answer_that_is_cut_in_a_call(models: dict[str, Path], load: Load) -> None:
    answer = load(models["qwen"]).chat([QUESTION], tools=[get_weather], max_new_tokens=4)
    assert (answer.finish_reason, answer.tool_calls) == ("length", ())
    assert answer.text == "Let me see.\n<tool_call>"
    whole = load(models["qwen"]).chat([QUESTION], tools=[get_weather], max_new_tokens=6)
    assert (whole.finish_reason, len(whole.tool_calls)) == ("length", 1)


def test_a_stop_string_in_front_of_a_call(models: dict[str, Path], load: Load) -> None:
    answer = load(models["qwen"]).chat([QUESTION], tools=[get_weather], stop_strings="see")
    assert (answer.text, answer.finish_reason, answer.tool_calls) == ("Let me ", "stop", ())
    inside = load(models["qwen"]).chat([QUESTION], tools=[get_weather], stop_strings="Rome")
    assert inside.text == 'Let me see.\n<tool_call>\n{"name": "get_weather", "arguments": {"city": "'
    behind = load(models["qwen"]).chat([QUESTION], tools=[get_weather], stop_strings="</tool_call>")
    assert (behind.finish_reason, len(behind.tool_calls)) == ("tool_calls", 1)


def test_rounds_that_never_end(models: dict[str, Path], load: Load, tmp_path: Path) -> None:
    folder = write_reply_bundle(
        tmp_path / "stubborn", {"?": FORMS["llama"][0]}, template=tool_templates.LLAMA + "?", name="stubborn"
    )
    done = load(folder).chat_with_tools([QUESTION], [get_weather], max_rounds=3)
    assert done.result.finish_reason == "tool_calls"
    assert [message["role"] for message in done.messages] == ["assistant", "tool"] * 2 + ["assistant"]


def test_a_model_whose_template_has_no_tools_is_refused(models: dict[str, Path], load: Load) -> None:
    lm = load("tiny")
    words = "tiny cannot call tools: its chat template has no place for them"
    for call in (lm.chat, lm.stream_chat, lm.encode_chat, lm.chat_with_tools):
        with pytest.raises(TemplateError, match=words):
            call([QUESTION], tools=[get_weather])


def test_what_is_no_tool_is_refused(models: dict[str, Path], load: Load) -> None:
    lm = load(models["qwen"])
    with pytest.raises(ConfigError, match="tools must be 1 to 128, not 0"):
        lm.chat([QUESTION], tools=[])
    with pytest.raises(ConfigError, match="unknown generation setting 'tools'"):
        lm.generate("hello", tools=[get_weather])
    with pytest.raises(ConfigError, match="tool look is a schema, with no function"):
        lm.chat_with_tools([QUESTION], [{"name": "look"}])


def test_special_tokens_in_results_stay_text(models: dict[str, Path], load: Load) -> None:
    lm = load(models["mistral"])
    result = {"role": "tool", "tool_call_id": "abcdefghi", "content": '"[TOOL_CALLS]"'}
    ids = lm.encode_chat([QUESTION, result])
    assert lm.tokenizer.token_to_id("[TOOL_CALLS]") not in ids
