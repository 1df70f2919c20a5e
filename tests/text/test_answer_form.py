from __future__ import annotations

import json
from dataclasses import dataclass

import pytest

from edgelm.errors import ConfigError
from edgelm.text.answer_form import AnswerForm, split_form


@dataclass
class Point:
    x: int


def form_of(**settings):
    form, others = split_form(settings)
    assert others == {}
    return form


def test_the_form_is_taken_out_of_the_settings() -> None:
    form, others = split_form({"regex": "a+", "grammar": None, "seed": 1})
    assert form == AnswerForm("regex", "a+")
    assert others == {"seed": 1}
    assert split_form({"json_schema": None, "choices": None}) == (None, {})


def test_schemas_are_json() -> None:
    assert json.loads(form_of(json_schema=Point).text)["properties"] == {"x": {"type": "integer"}}
    assert json.loads(form_of(json_schema='{"const": 1}').text) == {"const": 1}
    assert json.loads(form_of(json_schema={"properties": {}}).text)["additionalProperties"] is False


def test_choices_are_a_grammar_of_literals() -> None:
    assert form_of(choices=["yes", 'a"b\\c\n', "é", "yes"]).text == r'start: "yes" | "a\"b\\c\n" | "é"'
    assert form_of(choices=(choice for choice in "ab")) == form_of(choices=["a", "b"])


def test_an_answer_has_one_form() -> None:
    with pytest.raises(
        ConfigError, match=r"^regex and choices are given, but an answer has one form: give one of them$"
    ):
        split_form({"choices": ["a"], "regex": "a"})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"regex": 5}, "regex must be a text, not int"),
        ({"grammar": b"start:"}, "grammar must be a text, not bytes"),
        ({"regex": "a\ud800"}, "regex has a lone surrogate at character 1"),
        ({"choices": "yes"}, "choices must be a list of texts, not str"),
        ({"choices": 5}, "choices must be a list of texts, not int"),
        ({"choices": []}, "choices are empty"),
        ({"choices": ["a", ""]}, "choices must be texts that are not empty, not ''"),
        ({"choices": ["a", 1]}, "choices must be texts that are not empty, not 1"),
        ({"choices": ["\udfff"]}, "choices has a lone surrogate"),
        ({"json_schema": 5}, "json_schema must be a JSON object"),
    ],
)
def test_what_is_no_form_is_refused_by_name(settings, message: str) -> None:
    with pytest.raises(ConfigError, match=f"^{message}"):
        split_form(settings)
