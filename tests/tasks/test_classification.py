from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from support.encoder_fixtures import open_encoder

from edgelm.bundle.manifest import Head
from edgelm.errors import ConfigError, ContextLengthError, PromptError, UnsupportedModelError
from edgelm.tasks.classification import TextClassifier, best_labels, checked_function, default_function, scores

LOGITS = arrays.arrays(np.float32, (4, 3), elements=st.floats(-1000, 1000, width=32))


@given(logits=LOGITS)
def test_scores_are_probabilities(logits: np.ndarray) -> None:
    softmax, sigmoid = scores(logits, "softmax"), scores(logits, "sigmoid")
    np.testing.assert_allclose(softmax.sum(axis=-1), 1, rtol=1e-5)
    assert ((sigmoid >= 0) & (sigmoid <= 1)).all()
    assert softmax.dtype == sigmoid.dtype == np.float32
    best = np.take_along_axis(softmax, np.argmax(logits, axis=-1)[:, None], axis=-1)[:, 0]
    np.testing.assert_array_equal(best, softmax.max(axis=-1))
    np.testing.assert_array_equal(scores(logits, "none"), logits)


def test_the_functions_are_the_textbook_s() -> None:
    logits = np.array([0.5, -1.0, 2.0], np.float32)
    np.testing.assert_allclose(scores(logits, "sigmoid"), 1 / (1 + np.exp(-logits)), rtol=1e-6)
    np.testing.assert_allclose(scores(logits, "softmax"), np.exp(logits) / np.exp(logits).sum(), rtol=1e-6)


@pytest.mark.parametrize(
    ("labels", "problem", "function"),
    [
        (2, "single_label_classification", "softmax"),
        (1, "single_label_classification", "sigmoid"),
        (3, "multi_label_classification", "sigmoid"),
        (3, "regression", "none"),
        (1, "regression", "none"),
    ],
)
def test_the_head_decides_the_function(labels: int, problem: str, function: str) -> None:
    assert default_function(Head(tuple("abc"[:labels]), problem)) == function


def test_labels_by_falling_score_equals_in_the_model_s_order() -> None:
    found = best_labels(np.array([0.2, 0.4, 0.2, 0.2], np.float32), "abcd", 3)
    assert [label.label for label in found] == ["b", "a", "c"]
    assert len(best_labels(np.array([0.2, 0.8], np.float32), "ab", None)) == 2
    assert len(best_labels(np.array([0.2, 0.8], np.float32), "ab", 9)) == 2


def test_texts_and_pairs_in_a_batch_are_those_alone(tmp_path: Path) -> None:
    with open_encoder(tmp_path / "a", "text-classification") as model:
        classifier = TextClassifier(model)
        texts = ["the dog", ("the dog", "the fox"), "", "she sells sea shells by the sea shore"]
        together = classifier.classify(texts, top_k=None)
        for text, labels in zip(texts, together, strict=True):
            (alone,) = classifier.classify([text], top_k=None)
            assert [one.label for one in labels] == [one.label for one in alone]
            np.testing.assert_allclose([o.score for o in labels], [o.score for o in alone], rtol=1e-4)
        assert together[0] != together[1]
        assert classifier.classify([]) == []


def test_what_is_refused(tmp_path: Path) -> None:
    with open_encoder(tmp_path / "a", "text-classification") as model:
        classifier = TextClassifier(model)
        for top_k in (0, -1, True, 1.5):
            with pytest.raises(ConfigError, match="top_k must be"):
                classifier.classify(["a"], top_k=top_k)  # type: ignore[arg-type]
        with pytest.raises(ConfigError, match="function must be one of softmax, sigmoid, none, not 'tanh'"):
            checked_function("tanh")
        with pytest.raises(ContextLengthError, match="text 0 has 102 tokens"):
            classifier.classify(["dog " * 100])
        assert len(classifier.classify(["dog " * 100], truncation=True)) == 1
        with pytest.raises(PromptError, match="lone surrogate"):
            classifier.classify(["\udc00"])
    with open_encoder(tmp_path / "b") as model, pytest.raises(UnsupportedModelError, match="is for feature-extraction"):
        TextClassifier(model)
