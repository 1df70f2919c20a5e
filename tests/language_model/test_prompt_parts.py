"""What the parts of a prompt take of the context window."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import edgelm
from edgelm.errors import ContextLengthError
from edgelm.prompt_parts import encode_filled, prompt_parts
from edgelm.text.prompt_template import PromptTemplate

Load = Callable[..., edgelm.LanguageModel]

TEMPLATE = PromptTemplate(name="t", instruction="say", input="in {{ text }}", output="out")
LETTERS = st.text("abcdefgh", min_size=1, max_size=6)


@given(st.lists(st.tuples(LETTERS, LETTERS), max_size=3), LETTERS, st.booleans())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=20, deadline=None)
def test_the_parts_add_up(shared: edgelm.LanguageModel, pairs: list[tuple[str, str]], text: str, raw: bool) -> None:
    examples = [{"text": asked, "output": answered} for asked, answered in pairs]
    filled = TEMPLATE.fill({"text": text}, examples=examples)
    whole = filled.text() if raw else shared.encode_chat(filled.messages())
    parts = prompt_parts(shared, filled, raw=raw)
    assert parts.prompt == len(shared.tokenizer.encode(whole) if isinstance(whole, str) else whole)
    assert parts.input == len(text)
    assert len(parts.examples) == len(pairs)
    # One token a letter; a chat of this model ends every message with a full stop.
    assert all(part > len(asked) + len(answered) for part, (asked, answered) in zip(parts.examples, pairs, strict=True))


@pytest.fixture(scope="module")
def shared(folders: dict) -> edgelm.LanguageModel:
    with edgelm.load(folders["tiny"], prepack=False, threads=1) as lm:
        yield lm


def test_each_part_is_counted(load: Load) -> None:
    lm = load("tiny")
    with_system = PromptTemplate(name="t", system="be", instruction="say", input="in {{ text }}", output="out")
    filled = with_system.fill({"text": "abcd"}, examples=[{"text": "x", "output": "yz"}])
    parts = prompt_parts(lm, filled, settings={"max_new_tokens": 5})
    # "be." "say" "in x.yz." "in abcd.": the line break has no token of its own here
    assert (parts.system, parts.input, parts.answer) == (2, 4, 5)
    assert parts.as_dict()["examples"] == list(parts.examples)
    assert str(parts).startswith(f"system 2, template {parts.template}, example 1 {parts.examples[0]}, input 4")


def test_the_answer_is_what_is_left(load: Load) -> None:
    lm = load("tiny")
    parts = prompt_parts(lm, TEMPLATE.fill({"text": "a" * 40}), settings={"max_new_tokens": 60})
    assert parts.prompt + parts.answer == lm.context_length


@pytest.mark.parametrize(
    ("text", "examples", "advice"),
    [("a" * 70, 1, "shorten the input"), ("a", 8, r"give fewer or shorter examples \(-k\)")],
)
def test_a_prompt_that_does_not_fit_is_refused_by_its_parts(load: Load, text: str, examples: int, advice: str) -> None:
    filled = TEMPLATE.fill({"text": text}, examples=[{"text": "bbbb", "output": "cccc"}] * examples)
    for raw in (False, True):
        with pytest.raises(ContextLengthError, match=f"context window is 64 tokens.*example 1 .*input.*; {advice}"):
            encode_filled(load("tiny"), filled, raw=raw)
