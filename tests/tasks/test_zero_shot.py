from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.bundles import TinyDecoder, write_decoder_bundle
from support.encoder_fixtures import open_encoder

import edgelm
from edgelm.errors import ConfigError, ContextLengthError, PromptError, UnsupportedModelError
from edgelm.tasks.any_labels import zero_shot_classifier
from edgelm.tasks.zero_shot import check_template, checked_labels
from edgelm.tasks.zero_shot_encoders import NliScorer, entailment_index, entailment_scores

NLI = ("contradiction", "neutral", "ENTAILMENT")


def test_the_label_of_entailment_is_found_by_its_beginning() -> None:
    assert entailment_index(NLI) == 2
    assert entailment_index(("Entails", "not_entailment")) == 0
    assert entailment_index(("not_entailment", "positive")) is None


def test_scores_of_one_candidate_of_several_add_up_to_1() -> None:
    logits = np.random.default_rng(0).normal(size=(2, 4, 3)).astype(np.float32)
    found = entailment_scores(logits, 2)
    np.testing.assert_allclose(found.sum(axis=1), 1, rtol=1e-6)
    np.testing.assert_allclose(found, np.exp(logits[..., 2]) / np.exp(logits[..., 2]).sum(1, keepdims=True), rtol=1e-5)


@pytest.mark.parametrize(("entailment", "contradiction"), [(2, 0), (0, 2), (1, 0)])
def test_labels_on_their_own_are_weighed_against_contradiction(entailment: int, contradiction: int) -> None:
    logits = np.random.default_rng(1).normal(size=(2, 4, 3)).astype(np.float32)
    e, c = np.exp(logits[..., entailment]), np.exp(logits[..., contradiction])
    np.testing.assert_allclose(entailment_scores(logits, entailment, multi_label=True), e / (e + c), rtol=1e-5)
    np.testing.assert_allclose(entailment_scores(logits[:, :1], entailment), (e / (e + c))[:, :1], rtol=1e-5)


def test_by_entailment_a_batch_equals_single_texts(tmp_path: Path) -> None:
    with open_encoder(tmp_path / "a", "text-classification", labels=NLI) as model:
        classifier = zero_shot_classifier(model)
        texts = ["the dog", "she sells sea shells"]
        together = classifier.classify(texts, "dogs, shells,world")
        for text, result in zip(texts, together, strict=True):
            (alone,) = classifier.classify([text], ["dogs", "shells", "world"])
            assert result.labels == alone.labels
            np.testing.assert_allclose(result.scores, alone.scores, rtol=1e-4)
            assert sorted(result.scores, reverse=True) == list(result.scores)
            assert sum(result.scores) == pytest.approx(1, rel=1e-5)


def test_a_long_text_is_cut_and_its_hypothesis_is_not(tmp_path: Path) -> None:
    with open_encoder(tmp_path / "a", "text-classification", labels=NLI) as model:
        classifier = zero_shot_classifier(model)
        with pytest.raises(ContextLengthError, match="truncation=True"):
            classifier.classify(["dog " * 200], ["dogs", "shells"])
        long = classifier.classify(["dog " * 200], ["dogs", "shells"], truncation=True)[0]
        assert set(long.labels) == {"dogs", "shells"}
        with pytest.raises(ContextLengthError, match="takes 64"):
            classifier.classify(["dog"], ["dog " * 100, "fox"], truncation=True)


def test_by_vectors(tmp_path: Path) -> None:
    with open_encoder(tmp_path / "a") as model:
        classifier = zero_shot_classifier(model)
        (one,) = classifier.classify(["the lazy dog"], ["the lazy dog", "numbers"], hypothesis_template="{}")
        assert one.labels[0] == "the lazy dog"
        assert sum(one.scores) == pytest.approx(1, rel=1e-5)
        (each,) = classifier.classify(["dog"], ["dog", "numbers"], hypothesis_template="{}", multi_label=True)
        assert each.scores[0] == pytest.approx(1, rel=1e-5)
        assert all(0 <= score <= 1 + 1e-6 for score in each.scores)
        with pytest.raises(ContextLengthError, match="truncation=True"):
            classifier.classify(["dog " * 200], ["dogs", "shells"])
        assert classifier.classify(["dog " * 200], ["dogs", "shells"], truncation=True)


def test_what_texts_share_in_the_cache_changes_nothing(tmp_path: Path) -> None:
    with edgelm.load(write_decoder_bundle(tmp_path / "b", TinyDecoder(context_length=600)), prepack=False) as lm:
        classifier = zero_shot_classifier(lm)
        texts = ["a dog runs", "a fox sleeps"]
        together = classifier.classify(texts, ["animal", "a", "weather"])
        for text, result in zip(texts, together, strict=True):
            (alone,) = zero_shot_classifier(lm).classify([text], ["animal", "a", "weather"])
            assert result.labels == alone.labels
            np.testing.assert_allclose(result.scores, alone.scores, rtol=1e-3)
            assert sum(result.scores) == pytest.approx(1, rel=1e-5)


def whole_sequence(lm: edgelm.LanguageModel, hypothesis: str, text: str) -> float:
    """The text's log-probability, from one run over prompt and text."""
    prompt = lm.encode_chat([{"role": "user", "content": f"Write a sentence. {hypothesis}"}])
    ids = lm.tokenizer.encode_continuation(text)
    logits = np.concatenate(list(lm.new_decoder().all_logits([*prompt, *ids]))).astype(np.float64)
    rows = logits[len(prompt) - 1 : -1]
    logs = rows - np.log(np.exp(rows).sum(axis=1, keepdims=True))
    return float(logs[np.arange(len(ids)), ids].sum())


def test_likelihoods_are_those_of_the_whole_sequence(tmp_path: Path) -> None:
    with edgelm.load(write_decoder_bundle(tmp_path / "b", TinyDecoder(context_length=600)), prepack=False) as lm:
        text, labels = "a dog runs", ["animal", "fox"]
        (result,) = zero_shot_classifier(lm).classify([text], labels)
        likelihoods = np.array([whole_sequence(lm, f"This example is {label}.", text) for label in labels])
        odds = np.exp(likelihoods - likelihoods.max())
        expected = dict(zip(labels, odds / odds.sum(), strict=True))
        assert dict(zip(result.labels, result.scores, strict=True)) == pytest.approx(expected, rel=1e-3)


def test_labels_on_their_own_are_compared_with_none_in_particular(tmp_path: Path) -> None:
    with edgelm.load(write_decoder_bundle(tmp_path / "b", TinyDecoder(context_length=600)), prepack=False) as lm:
        settings: dict[str, Any] = {"hypothesis_template": "On {}.", "multi_label": True}
        (result,) = zero_shot_classifier(lm).classify(["a dog runs"], "animal,weather", **settings)
        none = whole_sequence(lm, "On anything.", "a dog runs")
        for label, score in zip(result.labels, result.scores, strict=True):
            odds = np.exp(whole_sequence(lm, f"On {label}.", "a dog runs") - none)
            assert score == pytest.approx(odds / (1 + odds), rel=1e-3)
        (alone,) = zero_shot_classifier(lm).classify(["a dog runs"], "weather", **settings)
        assert alone.scores[0] == pytest.approx(
            dict(zip(result.labels, result.scores, strict=True))["weather"], rel=1e-3
        )


def test_the_order_of_the_labels_changes_nothing(tmp_path: Path) -> None:
    with edgelm.load(write_decoder_bundle(tmp_path / "b", TinyDecoder(context_length=600)), prepack=False) as lm:
        one, other = (
            zero_shot_classifier(lm).classify(["a dog"], labels)[0] for labels in ("x,animal,y", "y,x,animal")
        )
        assert one.labels == other.labels
        np.testing.assert_allclose(one.scores, other.scores, rtol=1e-3)


def test_a_long_text_for_a_language_model_is_cut_only_when_asked(tmp_path: Path) -> None:
    with edgelm.load(write_decoder_bundle(tmp_path / "b", TinyDecoder(context_length=600)), prepack=False) as lm:
        classifier = zero_shot_classifier(lm)
        with pytest.raises(ContextLengthError, match="truncation=True"):
            classifier.classify(["dog " * 400], ["a", "b"])
        assert classifier.classify(["dog " * 400], ["a", "b"], truncation=True)[0].labels
        with pytest.raises(ContextLengthError, match="takes 600"):
            classifier.classify(["dog"], ["a", "b " * 600], truncation=True)
        assert classifier.classify([], ["a", "b"]) == []


@pytest.mark.parametrize("labels", ["", " , ", [], ["a", ""], ["a", 3]])
def test_bad_labels_are_refused(labels: Any) -> None:
    with pytest.raises(ConfigError, match="candidate label"):
        checked_labels(labels)


def test_what_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"must have \{\} where the label goes, unlike 'This is good'"):
        check_template("This is good")
    refused = pytest.raises(UnsupportedModelError, match="sad, neutral, glad: none is called 'entailment'")
    with open_encoder(tmp_path / "a", "text-classification") as model, refused:
        NliScorer(model)
    with open_encoder(tmp_path / "b", "text-classification", labels=NLI) as model:
        for texts in ("dog", [""], [" "], [3]):
            with pytest.raises(PromptError, match=r"list of texts|must be a text that is not empty"):
                zero_shot_classifier(model).classify(texts, ["a", "b"])  # type: ignore[arg-type]
        assert zero_shot_classifier(model).classify([], ["a", "b"]) == []
