"""``edgelm.pipeline``: tasks by name, models by name, folder or loaded, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.bundles import TinyDecoder, write_decoder_bundle
from support.encoder_bundle import TinyEncoder, write_encoder_bundle
from support.encoder_fixtures import open_encoder
from support.scripted_bundle import write_scripted_bundle
from support.token_tasks import write_task_bundle

import edgelm
from edgelm.errors import (
    ClosedError,
    ConfigError,
    ContextLengthError,
    ModelNotFoundError,
    PromptError,
    UnsupportedModelError,
)
from edgelm.tasks.pipelines import ALIASES, TASKS, default_model, pipeline

SETTINGS: dict[str, Any] = {"prepack": False, "threads": 1}


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGELM_HOME", str(tmp_path / "home"))


def encoder(folder: Path, task: str, **changes: Any) -> Path:
    return write_encoder_bundle(folder, TinyEncoder(task=task, **changes))


def test_features(tmp_path: Path) -> None:
    with edgelm.pipeline("feature-extraction", encoder(tmp_path / "a", "feature-extraction"), **SETTINGS) as extract:
        one = extract("the dog")
        assert np.shape(one) == (1, 4, 24)
        assert isinstance(one, list)
        array = extract("the dog", return_tensors=True)
        np.testing.assert_allclose(array, one)
        many = extract(["the dog", "x"])
        np.testing.assert_allclose(many[0], one, rtol=1e-4, atol=1e-5)


def test_similarity(tmp_path: Path) -> None:
    with pipeline("sentence-similarity", encoder(tmp_path / "a", "feature-extraction"), **SETTINGS) as compare:
        given = {"source_sentence": "the dog", "sentences": ["the dog", "sea shells"]}
        assert compare(given) == pytest.approx(compare(**given))
        assert compare(given)[0] == pytest.approx(1, rel=1e-5)
        with pytest.raises(PromptError, match="given twice"):
            compare(given, sentences=["x"])
        for bad in ({}, {"source_sentence": "a"}, "a", {**given, "sentences": "ab"}):
            with pytest.raises(PromptError):
                compare(bad)


def test_labels_as_transformers_shapes_them(tmp_path: Path) -> None:
    with pipeline("sentiment-analysis", encoder(tmp_path / "a", "text-classification"), **SETTINGS) as classify:
        (best,) = classify("the dog")
        assert set(best) == {"label", "score"}
        assert classify("the dog", top_k=1) == [best]
        assert len(classify("the dog", top_k=None)) == 3
        assert [set(one) for one in classify(["the dog", "x"])] == [{"label", "score"}] * 2
        assert [len(one) for one in classify(["the dog", "x"], top_k=2)] == [2, 2]
        pair = {"text": "the dog", "text_pair": "the fox"}
        assert classify(pair) == classify([pair])[0]
        assert classify({"text": "the dog"})["score"] == pytest.approx(best["score"], rel=1e-5)
        scores = classify("the dog", top_k=None, function_to_apply="NONE")
        assert sum(one["score"] for one in scores) != pytest.approx(1)
        with pytest.raises(PromptError, match="a pair must be"):
            classify({"text_pair": "a"})
        with pytest.raises(PromptError, match="the list is empty"):
            classify([])


def test_ranking(tmp_path: Path) -> None:
    with pipeline("text-ranking", encoder(tmp_path / "a", "text-ranking", labels=("x",)), **SETTINGS) as rank:
        found = rank("the dog", ["a", "b", "c"], top_k=2)
        assert [set(one) for one in found] == [{"index", "score", "text"}] * 2


@pytest.mark.parametrize("kind", ["nli", "vectors", "instruct"])
def test_zero_shot_with_any_kind_of_model(tmp_path: Path, kind: str) -> None:
    if kind == "instruct":
        folder = write_decoder_bundle(tmp_path / "a", TinyDecoder(context_length=600))
    elif kind == "nli":
        folder = encoder(tmp_path / "a", "text-classification", labels=("entailment", "contradiction"))
    else:
        folder = encoder(tmp_path / "a", "feature-extraction")
    with pipeline("zero-shot-classification", folder, **SETTINGS) as classify:
        one = classify("the dog", candidate_labels="dog,fox")
        assert set(one) == {"sequence", "labels", "scores"}
        assert one["sequence"] == "the dog"
        many = classify(["the dog", "x"], ["dog", "fox"], multi_label=True)
        assert [answer["sequence"] for answer in many] == ["the dog", "x"]
        with pytest.raises(ConfigError, match="candidate label"):
            classify("the dog")
        with pytest.raises(ConfigError, match="has no setting 'multi_class'"):
            classify("the dog", "a,b", multi_class=True)
        assert classify("dog " * 700, "dog,fox")["labels"]
        with pytest.raises(ContextLengthError):
            classify("dog " * 700, "dog,fox", truncation=False)


def test_tasks_over_single_tokens(tmp_path: Path) -> None:
    with pipeline("ner", write_task_bundle(tmp_path / "ner", "token-classification"), **SETTINGS) as label:
        found = label("the quick dog", ignore_labels=[])
        assert len(found) == 3
        assert set(found[0]) == {"entity", "score", "index", "word", "start", "end"}
        assert len(label(["the dog", "x"], aggregation_strategy="simple")) == 2
    with pipeline("question-answering", write_task_bundle(tmp_path / "qa", "question-answering"), **SETTINGS) as ask:
        answer = ask(question="who?", context="the quick dog")
        assert set(answer) == {"score", "start", "end", "answer"}
        assert ask({"question": "who?", "context": "the quick dog"}) == answer
        assert len(ask(question=["who?", "what?"], context="the quick dog")) == 2
        with pytest.raises(PromptError, match="context is given twice"):
            ask({"question": "who?", "context": "a dog"}, context="a fox")
        for bad in ({"question": "who?"}, [], {"question": ["a", "b"], "context": ["c"]}, "who?"):
            with pytest.raises(PromptError, match=r"question-answering takes|must be strings"):
                ask(bad)
    with pipeline("fill-mask", write_task_bundle(tmp_path / "mask", "fill-mask"), **SETTINGS) as fill:
        assert len(fill("the [MASK] dog", top_k=3)) == 3
        assert fill(["the [MASK] dog"], top_k=1) == fill("the [MASK] dog", top_k=1)
        assert len(fill(["the [MASK] dog", "a [MASK]"])) == 2


def test_text_generation(tmp_path: Path) -> None:
    folder = write_scripted_bundle(tmp_path / "lm", "abcdef")
    with pipeline("text-generation", folder, **SETTINGS) as generate:
        assert generate("ab") == [{"generated_text": "abcdef"}]
        assert generate("ab", return_full_text=False, max_new_tokens=2) == [{"generated_text": "cd"}]
        assert generate(["ab", "abc"]) == [[{"generated_text": "abcdef"}]] * 2
        with pytest.raises(PromptError):
            generate([])
        with pytest.raises(PromptError, match="an input must be a text"):
            generate([3])
        with pytest.raises(ConfigError, match="unknown generation setting"):
            generate("ab", nonsense=1)
    with pipeline("text2text-generation", folder, **SETTINGS) as generate:
        assert generate("ab") == [{"generated_text": "cdef"}]
        assert generate(["ab", "abc"]) == [{"generated_text": "cdef"}, {"generated_text": "def"}]


def test_a_chat_comes_back_with_its_answer(tmp_path: Path) -> None:
    template = b"{% for m in messages %}{{ m.content }}{% endfor %}"
    folder = write_scripted_bundle(tmp_path / "lm", "abcdef", files={"chat_template.jinja": template})
    chat = [{"role": "user", "content": "ab"}]
    with pipeline("text-generation", folder, **SETTINGS) as generate:
        answered = [*chat, {"role": "assistant", "content": "cdef"}]
        assert generate(chat) == [{"generated_text": answered}]
        assert generate([chat, chat]) == [[{"generated_text": answered}]] * 2
        assert generate(chat, return_full_text=False) == [{"generated_text": "cdef"}]
        with pytest.raises(PromptError, match="ends with the assistant"):
            generate(answered)


@pytest.mark.parametrize("task", ["feature-extraction", "sentence-similarity", "zero-shot-classification"])
def test_a_setting_that_a_task_does_not_have_is_named(tmp_path: Path, task: str) -> None:
    refused = pytest.raises(ConfigError, match=rf"{task} has no setting 'trunc'; known are: .*truncation")
    with pipeline(task, encoder(tmp_path / "a", "feature-extraction"), **SETTINGS) as call, refused:
        call("the dog", trunc=True)


def test_a_loaded_model_stays_its_caller_s(tmp_path: Path) -> None:
    with open_encoder(tmp_path / "a", "text-classification") as model:
        with pipeline("text-classification", model) as classify:
            classify("dog")
        classify("dog")
        with pytest.raises(ConfigError, match="threads is a setting for loading, but the model is loaded already"):
            pipeline("text-classification", model, threads=1)
    with pytest.raises(ClosedError):
        classify("dog")


def test_a_model_that_was_loaded_for_the_pipeline_is_closed_with_it(tmp_path: Path) -> None:
    with pipeline("text-classification", encoder(tmp_path / "a", "text-classification"), **SETTINGS) as classify:
        pass
    with pytest.raises(ClosedError):
        classify("dog")


def test_a_model_for_something_else_says_what_it_is_for(tmp_path: Path) -> None:
    vectors, lm = encoder(tmp_path / "a", "feature-extraction"), write_decoder_bundle(tmp_path / "lm")
    with pytest.raises(UnsupportedModelError, match="tiny-encoder is for feature-extraction, not for text-classif"):
        pipeline("text-classification", vectors, **SETTINGS)
    with pytest.raises(UnsupportedModelError, match=r"is for feature-extraction|family"):
        pipeline("text-generation", vectors, **SETTINGS)
    with pytest.raises(UnsupportedModelError, match="it is for text-generation, chat"):
        pipeline("ner", lm, **SETTINGS)
    refused = pytest.raises(UnsupportedModelError, match="tiny is for text-generation, chat, not for fill-mask")
    with edgelm.load(lm, **SETTINGS) as loaded, refused:
        pipeline("fill-mask", loaded)


def test_unknown_tasks_settings_and_models(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no task 'nonsense'; known are: feature-extraction, fill-mask, ner"):
        pipeline("nonsense")
    with pytest.raises(ConfigError, match="loading a model has no setting 'nonsense'; known are: max_memory"):
        pipeline("feature-extraction", encoder(tmp_path / "a", "feature-extraction"), nonsense=1)
    with pytest.raises(ModelNotFoundError):
        pipeline("feature-extraction", "no-such-model")


def test_without_a_model_the_catalog_s_is_taken() -> None:
    assert default_model("text-generation") == "smollm2"
    with pytest.raises(ModelNotFoundError, match="get it with: edgelm pull smollm2"):
        pipeline("text-generation")
    with pytest.raises(ModelNotFoundError, match="the catalog has no model for translation_xx_to_yy: give"):
        pipeline("translation_xx_to_yy")


def test_every_row_has_its_home() -> None:
    for row in TASKS.values():
        module, _, function = row.home.partition(":")
        assert callable(getattr(__import__(module, fromlist=[function]), function))
    assert set(ALIASES.values()) <= set(TASKS)
