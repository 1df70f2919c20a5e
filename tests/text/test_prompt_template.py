"""Prompt templates: what they make of a text, variables and examples, and what they refuse."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import edgelm
from edgelm.errors import ConfigError, PromptError, TemplateError
from edgelm.text.prompt_template import PromptTemplate
from edgelm.text.template_file import built_in_names

EXAMPLES = [{"input": "fine", "output": "good"}, {"text": "awful", "output": "bad"}, {"text": "so", "output": 3}]
LABELS = PromptTemplate(
    name="labels",
    system="You are {{ who }}.",
    instruction="Answer with {{ labels }}.",
    input="Text: {{ text }}",
    output="Label:",
    stop=("\n",),
    defaults={"who": "terse", "labels": "good or bad"},
)
# Enough for the variables that have no default.
VARIABLES = {"text": "Some text.", "to": "French", "question": "Who?"}


def test_examples_become_turns_of_a_conversation() -> None:
    assert LABELS.render(text="new", examples=EXAMPLES, k=2) == [
        {"role": "system", "content": "You are terse."},
        {"role": "user", "content": "Answer with good or bad.\n\nText: fine"},
        {"role": "assistant", "content": "good"},
        {"role": "user", "content": "Text: awful"},
        {"role": "assistant", "content": "bad"},
        {"role": "user", "content": "Text: new"},
    ]
    assert (
        LABELS.render(text="new", examples=EXAMPLES, k=0)
        == LABELS.render(text="new")
        == [
            {"role": "system", "content": "You are terse."},
            {"role": "user", "content": "Answer with good or bad.\n\nText: new"},
        ]
    )


def test_examples_become_a_text_that_goes_on() -> None:
    assert LABELS.render_text(text="new", examples=EXAMPLES) == (
        "You are terse.\n\nAnswer with good or bad.\n\nText: fine\nLabel: good\n\nText: awful\nLabel: bad\n\n"
        "Text: so\nLabel: 3\n\nText: new\nLabel:"
    )


@given(st.text(), st.lists(st.text(), max_size=4))
def test_texts_are_never_read_as_templates(text: str, outputs: list[str]) -> None:
    examples = [{"text": text, "output": output} for output in outputs]
    messages = LABELS.render(text=text, examples=examples)
    assert messages[-1]["content"].endswith("Text: " + text)
    assert [message["content"] for message in messages if message["role"] == "assistant"] == outputs
    assert "{{ labels }}" in LABELS.render(text="{{ labels }}")[-1]["content"]


def test_an_example_may_have_variables_of_its_own() -> None:
    template = PromptTemplate(name="t", input="{{ to }}: {{ input }}")
    examples = [{"text": "one", "to": "French", "output": "un", "note": "not used"}]
    texts = [message["content"] for message in template.render(input="two", to="Spanish", examples=examples)]
    assert texts == ["French: one", "un", "Spanish: two"]


def test_a_variable_that_is_missing_is_named() -> None:
    with pytest.raises(TemplateError, match=r"the template 'translation' needs the variable 'to' \(--var to=…\)"):
        PromptTemplate.load("translation").render(text="x")
    with pytest.raises(TemplateError, match="needs the variable 'text'"):
        PromptTemplate.load("summary").render()
    # An example without its text must not take that of the input.
    with pytest.raises(TemplateError, match=r"examples\[0\]: the template 'labels' needs the variable 'text'"):
        LABELS.render(text="new", examples=[{"output": "x"}])


@pytest.mark.parametrize(
    ("given", "error", "words"),
    [
        ({"txt": "x"}, ConfigError, "has no variable 'txt'; it has: labels, text, who"),
        ({"text": "x", "k": 1}, ConfigError, "k must be from 0 to 0"),
        ({"text": "x", "examples": EXAMPLES, "k": 4}, ConfigError, "k must be from 0 to 3"),
        ({"text": "x", "examples": EXAMPLES, "k": -1}, ConfigError, "k must be from 0 to 3"),
        ({"text": "x", "examples": EXAMPLES, "k": True}, ConfigError, "k must be from 0 to 3"),
        ({"text": "x", "examples": [{"text": "y"}]}, PromptError, r"examples\[0\]: an example needs an 'output'"),
    ],
)
def test_what_does_not_fit_is_refused(given: dict[str, Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        LABELS.render(**given)


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("{{ text", "is not valid"),
        ("{% for x in range(99999) %}{% for y in range(99999) %}{% endfor %}{% endfor %}{{ text }}", "seconds"),
        ("{{ text.__class__ }}", "not allowed"),
        ("{{ 'x' * 99999999 }}{{ text }}", "bytes"),
        ("{{ output }}", "uses 'output', which is no variable"),
        ("{{ text / 0 }}", "fails"),
    ],
)
def test_a_template_that_misbehaves_is_refused(source: str, words: str) -> None:
    with pytest.raises(TemplateError, match=words):
        PromptTemplate(name="bad", input=source).render(text="x")


def test_every_template_of_the_package_works() -> None:
    names = built_in_names()
    assert names == ["classification", "code", "entities", "essay", "qa", "summary", "translation"]
    for name in names:
        template = edgelm.PromptTemplate.load(name)
        assert template.name == name
        assert template.description
        given = {key: VARIABLES[key] for key in template.variables if key not in (template.defaults or {})}
        examples = [{"text": "Another.", "question": "What?", "output": "An answer."}]
        for k in (0, 1):
            messages = template.render(examples=examples, k=k, **given)
            assert len(messages) == 1 + 2 * k
            assert "Some text." in messages[-1]["content"]
            assert template.render_text(examples=examples, k=k, **given).endswith(":")
    assert "in 1 sentence." in PromptTemplate.load("summary").render(text="x", sentences="1")[0]["content"]
    assert "in 2 sentences." in PromptTemplate.load("summary").render(text="x")[0]["content"]


def test_a_file_of_ones_own(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text('input = "{{ text }}!"\noutput = "A:"\nstop = ["x"]\n[defaults]\nn = 1\n')
    mine = PromptTemplate.load(file)
    assert (mine.name, mine.stop, mine.defaults) == ("mine.toml", ("x",), {"n": 1})
    assert mine.render_text(text="Hi") == "Hi!\nA:"
    plain = tmp_path / "plain.txt"
    plain.write_text("Say {{ input }}\n\nslowly.\n")
    assert PromptTemplate.load(str(plain)).render(text="this") == [{"role": "user", "content": "Say this\n\nslowly."}]
    examples = tmp_path / "examples.jsonl"
    examples.write_text("".join(json.dumps(example) + "\n" for example in EXAMPLES))
    assert LABELS.render(text="n", examples=examples, k=2) == LABELS.render(text="n", examples=EXAMPLES, k=2)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("input = ", "not TOML"),
        ("instruction = 'x'", "'input' is missing"),
        ("input = 'x'\nprompt = 'y'", "unknown field 'prompt'; known are: description"),
        ("input = 1", "'input' must be a text"),
        ("input = 'x'\nstop = 'y'", "'stop' must be a list of texts"),
        ("input = 'x'\nstop = [1]", "'stop' must be a list of texts"),
        ("input = 'x'\ndefaults = 'y'", "'defaults' must be a table"),
    ],
)
def test_a_bad_file_is_refused(tmp_path: Path, text: str, words: str) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(text)
    with pytest.raises(TemplateError, match=words):
        PromptTemplate.load(file)


def test_an_unknown_template_is_refused_with_near_names() -> None:
    with pytest.raises(TemplateError, match="there is no template 'sumary'; did you mean summary"):
        PromptTemplate.load("sumary")
    with pytest.raises(TemplateError, match=r"there are classification, code, .* or give a file"):
        PromptTemplate.load("zzz")
