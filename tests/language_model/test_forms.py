"""Answers that are held to a form, from a model that says anything: random weights, drawn at a high temperature."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from support.bundles import TinyDecoder, write_decoder_bundle
from support.tokenizers import CHAT_TOKENS, byte_fallback, byte_level

import edgelm
from edgelm.config import GenerationConfig
from edgelm.errors import ConfigError, NumericError, UnsupportedModelError
from edgelm.text.answer_form import split_form
from edgelm.text.grammar import GrammarReader

pytest.importorskip("llguidance")
jsonschema = pytest.importorskip("jsonschema")

# Wider than the tokenizer, as logits often are.
VOCAB_SIZE = 640
WILD = {"do_sample": True, "temperature": 5.0}


@dataclass
class Trip:
    city: Literal["Rome", "Oslo"]
    days: int
    notes: list[Literal["sun", "rain"]]
    back: bool | None = None


FORMS: dict[str, dict[str, Any]] = {
    "schema": {
        "json_schema": {
            "type": "object",
            "properties": {
                "id": {"type": "integer", "minimum": 0, "maximum": 999},
                "name": {"type": "string", "maxLength": 6},
                "tags": {"type": "array", "items": {"enum": ["a", "b"]}, "maxItems": 2},
            },
            "required": ["id", "name", "tags"],
            "additionalProperties": False,
        }
    },
    "dataclass": {"json_schema": Trip},
    "endless schema": {"json_schema": {"type": "array", "items": {"type": "string"}}},
    "any object": {"json_schema": {}},
    "regex": {"regex": r"\d{4}-\d{2}-\d{2}( at [a-z]{2,5})?"},
    "endless regex": {"regex": r"([ab]+, )*end"},
    "choices": {"choices": ["yes", "yes, but", "no", "é 你"]},
    "grammar": {"grammar": 'start: sum\nsum: NUM (("+"|"-") NUM)*\nNUM: /[0-9]{1,3}/'},
}


def is_complete(name: str, text: str) -> bool:
    form = FORMS[name]
    if "json_schema" in form:
        split, _ = split_form(form)
        assert split is not None
        value = json.loads(text)
        jsonschema.validate(value, json.loads(split.text))
        return True
    if "choices" in form:
        return text in form["choices"]
    return re.fullmatch(form.get("regex", r"\d{1,3}([+-]\d{1,3})*"), text) is not None


def write(folder: Path, tokenizer, **changes: Any) -> Path:
    ends = sorted(tokenizer.token_to_id(token) for token in CHAT_TOKENS if token != "<|im_start|>")
    files = {
        "tokenizer.json": tokenizer.to_str().encode(),
        "generation_config.json": json.dumps({"eos_token_id": ends}).encode(),
    }
    sizes = TinyDecoder(vocab_size=VOCAB_SIZE, context_length=200, seed=5)
    return write_decoder_bundle(folder, sizes, files=files, eos_token_id=tuple(ends), **changes)


@pytest.fixture(scope="module")
def lm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[edgelm.LanguageModel]:
    folder = write(tmp_path_factory.mktemp("forms") / "bytes", byte_level())
    with edgelm.load(folder, prepack=False, threads=1) as lm:
        yield lm


@pytest.fixture(scope="module")
def spaced(tmp_path_factory: pytest.TempPathFactory) -> Iterator[edgelm.LanguageModel]:
    """A model whose tokenizer takes the first space of a text away."""
    folder = write(tmp_path_factory.mktemp("forms") / "spaced", byte_fallback(special_tokens=("<unk>", *CHAT_TOKENS)))
    with edgelm.load(folder, prepack=False, threads=1) as lm:
        yield lm


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("model", ["lm", "spaced"])
def test_hostile_answers_have_the_form_or_are_cut_within_it(name: str, model: str, request) -> None:
    """With those of the next test, some 300 answers."""
    lm = request.getfixturevalue(model)
    reader = GrammarReader(lm.tokenizer)
    form, _ = split_form(FORMS[name])
    complete = 0
    for seed in range(16):
        answer = lm.generate("hello", max_new_tokens=10 if seed % 4 == 0 else 120, seed=seed, **WILD, **FORMS[name])
        assert "".join(chunk.text for chunk in stream(lm, answer, seed, name)) == answer.text
        if answer.finish_reason == "stop":
            complete += 1
            assert is_complete(name, answer.text), answer.text
        else:
            assert answer.finish_reason == "length"
            assert answer.usage.completion_tokens in (10, 120)
            automaton = reader.automaton(form)
            assert all(automaton.advance(token) for token in answer.token_ids)
            assert lm.tokenizer.decode(answer.token_ids) == answer.text
    if "endless" not in name and "any" not in name:
        assert complete >= 4


def stream(lm: edgelm.LanguageModel, answer, seed: int, name: str):
    count = answer.usage.completion_tokens
    return lm.stream("hello", max_new_tokens=count, seed=seed, **WILD, **FORMS[name])


@pytest.mark.parametrize("name", FORMS)
def test_batches_samples_and_beams_have_the_form(lm: edgelm.LanguageModel, name: str) -> None:
    prompts = ["hello", "the sea shore", "a"]
    runs = [
        ({"seed": 3, **WILD, "num_return_sequences": 2}, 6),
        ({"num_beams": 3, "num_return_sequences": 2, "length_penalty": 0.0}, 6),
        ({"num_beams": 2, "do_sample": True, "temperature": 5.0, "seed": 1}, 3),
    ]
    for settings, count in runs:
        answers = lm.generate_batch(prompts, max_new_tokens=60, **settings, **FORMS[name])
        assert len(answers) == count
        for answer in answers:
            if answer.finish_reason == "stop":
                assert is_complete(name, answer.text), answer.text


@pytest.mark.parametrize("name", FORMS)
def test_greedy_answers_are_the_same_alone_in_batches_and_with_guesses(lm: edgelm.LanguageModel, name: str) -> None:
    settings: dict[str, Any] = {"max_new_tokens": 40, **FORMS[name]}
    alone = lm.generate("hello", **settings)
    assert lm.generate("hello", **settings).token_ids == alone.token_ids
    for answer in lm.generate_batch(["hello", "the sea"], **settings)[:1]:
        assert (answer.token_ids, answer.finish_reason) == (alone.token_ids, alone.finish_reason)
    guessed = lm.generate("hello", prompt_lookup_num_tokens=4, **settings)
    assert (guessed.token_ids, guessed.finish_reason) == (alone.token_ids, alone.finish_reason)


def test_it_comes_behind_penalties_and_before_warpers(lm: edgelm.LanguageModel) -> None:
    # What the form allows is far from the likeliest tokens, which top-k would leave.
    for seed in range(8):
        answer = lm.generate("x", choices=["no", "yes"], do_sample=True, top_k=1, repetition_penalty=3.0, seed=seed)
        assert answer.text in ("no", "yes")


def test_a_stop_string_ends_it_before_it_is_complete(lm: edgelm.LanguageModel) -> None:
    answer = lm.generate("x", choices=["sea shells"], stop_strings=["sh"])
    assert (answer.text, answer.finish_reason) == ("sea ", "stop")


def test_a_minimum_and_bans_that_leave_nothing_are_said(lm: edgelm.LanguageModel) -> None:
    with pytest.raises(NumericError, match=r"the answer's form allows \d+ tokens here, but .*min_new_tokens"):
        lm.generate("x", choices=["no"], min_new_tokens=9, max_new_tokens=10)
    ids = lm.tokenizer.encode_continuation("no")
    with pytest.raises(NumericError, match="but other settings rule them out"):
        lm.generate("x", choices=["no"], bad_words_ids=[[token] for token in range(max(ids) + 1)])


def test_callers_own_processors_come_before_it(lm: edgelm.LanguageModel) -> None:
    wish = lm.tokenizer.encode_continuation("q")[0]

    def push(ids, logits):
        pushed = logits.copy()
        pushed[wish] = 100.0
        return pushed

    assert lm.generate("x", choices=["qx", "no"], logits_processor=push).text == "qx"
    assert lm.generate("x", choices=["no"], logits_processor=push).text == "no"


def test_log_probabilities_are_the_models_own(lm: edgelm.LanguageModel) -> None:
    answer = lm.generate("x", choices=["no"], top_logprobs=1)
    assert answer.logprobs is not None
    assert all(np.isfinite(token.logprob) for token in answer.logprobs)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"regex": "(a"}, "regex: .*unclosed group"),
        ({"json_schema": "{"}, "json_schema is not JSON"),
        ({"json_schema": {"$ref": "https://example.com"}}, "json_schema: nothing is fetched"),
        ({"regex": "a", "choices": ["b"]}, "regex and choices are given"),
        ({"regex": "a", "forced_eos_token_id": 2}, "forced_eos_token_id ends answers where regex may not let them end"),
        ({"regex": "a", "num_beams": 2, "eos_token_id": ()}, "beams need a token that ends an answer"),
        ({"grammar": "start: x"}, 'grammar: .*unknown name: "x"'),
    ],
)
def test_what_is_wrong_is_said_before_anything_runs(lm: edgelm.LanguageModel, settings, message: str) -> None:
    for run in (lm.generate, lm.stream, lambda prompt, **given: lm.generate_batch([prompt], **given)):
        with pytest.raises(ConfigError, match=f"^{message}"):
            run("x", **settings)


def test_a_configuration_has_no_form() -> None:
    with pytest.raises(ConfigError, match="unknown generation setting 'regex'"):
        GenerationConfig().updated(regex="a")


def test_a_tokenizer_that_cannot_be_followed_is_refused(tmp_path: Path) -> None:
    tokenizer = byte_level()
    from tokenizers import decoders

    tokenizer.decoder = decoders.WordPiece()
    with (
        edgelm.load(write(tmp_path / "words", tokenizer), prepack=False, threads=1) as lm,
        pytest.raises(UnsupportedModelError, match="its tokenizer's decoder is WordPiece"),
    ):
        lm.generate("x", regex="a")
