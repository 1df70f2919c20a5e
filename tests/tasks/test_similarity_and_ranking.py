from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from support.encoder_fixtures import open_encoder

from edgelm.errors import ConfigError, PromptError, UnsupportedModelError
from edgelm.tasks.ranking import Ranker
from edgelm.tasks.similarity import cosine_matrix, cosine_pairs, pair_similarities, similarity_matrix

VECTORS = arrays.arrays(np.float32, (5, 4), elements=st.floats(-100, 100, width=32))
PASSAGES = ["the lazy dog", "sea shells", "hello world", "numbers", "hello world"]


@given(a=VECTORS, b=VECTORS)
def test_cosines_are_symmetric_and_between_minus_1_and_1(a: np.ndarray, b: np.ndarray) -> None:
    matrix = cosine_matrix(a, b)
    assert (np.abs(matrix) <= 1 + 1e-5).all()
    np.testing.assert_allclose(matrix, cosine_matrix(b, a).T, atol=1e-5)
    np.testing.assert_allclose(cosine_pairs(a, b), np.diagonal(matrix), atol=1e-5)


def test_of_texts(tmp_path: Path) -> None:
    with open_encoder(tmp_path / "a") as model:
        matrix = similarity_matrix(model, PASSAGES)
        np.testing.assert_allclose(np.diagonal(matrix), 1, rtol=1e-5)
        assert matrix[2, 4] == pytest.approx(1, rel=1e-5)
        pairs = [(PASSAGES[0], PASSAGES[1]), (PASSAGES[0], PASSAGES[0])]
        np.testing.assert_allclose(pair_similarities(model, pairs), [matrix[0, 1], 1], rtol=1e-4)
        assert similarity_matrix(model, PASSAGES[:2], PASSAGES[:3]).shape == (2, 3)


def test_ranking_by_vectors_is_by_cosine(tmp_path: Path) -> None:
    with open_encoder(tmp_path / "a") as model:
        ranked = Ranker(model).rank("the dog", PASSAGES)
        cosines = similarity_matrix(model, ["the dog"], PASSAGES)[0]
        assert [passage.score for passage in ranked] == sorted((p.score for p in ranked), reverse=True)
        for passage in ranked:
            assert passage.text == PASSAGES[passage.index]
            assert passage.score == pytest.approx(cosines[passage.index], abs=1e-5)
        assert Ranker(model).rank("the dog", PASSAGES, top_k=2) == ranked[:2]
        assert Ranker(model).rank("the dog", []) == []


def test_a_single_text_is_no_list_of_letters(tmp_path: Path) -> None:
    with open_encoder(tmp_path / "a") as model:
        calls: tuple[Callable[[], object], ...] = (
            lambda: Ranker(model).rank("the dog", "fox"),
            lambda: similarity_matrix(model, "fox"),
            lambda: similarity_matrix(model, ["fox"], "dog"),
        )
        for call in calls:
            with pytest.raises(PromptError, match="must be a list of texts"):
                call()


def test_ranking_by_vectors_refuses_unknown_functions_too(tmp_path: Path) -> None:
    with open_encoder(tmp_path / "a") as model, pytest.raises(ConfigError, match="the function must be one of"):
        Ranker(model).rank("the dog", PASSAGES, function="best")  # type: ignore[arg-type]


def test_ranking_by_a_cross_encoder_reads_query_and_passage_together(tmp_path: Path) -> None:
    with open_encoder(tmp_path / "a", "text-ranking", labels=("score",)) as model:
        ranked = Ranker(model).rank("the dog", PASSAGES)
        logits = [next(model.run(model.encode([("the dog", passage)])))["logits"][0] for passage in PASSAGES]
        assert [passage.index for passage in ranked][:3] == list(np.argsort(-np.array(logits), kind="stable"))[:3]
        for passage in ranked:
            assert passage.score == pytest.approx(1 / (1 + np.exp(-logits[passage.index])), rel=1e-4)
        raw = Ranker(model).rank("the dog", PASSAGES, function="none")
        assert raw[0].score == pytest.approx(max(logits), rel=1e-4)


def test_what_is_refused(tmp_path: Path) -> None:
    refused = pytest.raises(UnsupportedModelError, match="ranking takes a model for text-ranking or feature-extraction")
    with open_encoder(tmp_path / "a", "fill-mask") as model, refused:
        Ranker(model)
    with open_encoder(tmp_path / "b") as model, pytest.raises(ConfigError, match="top_k"):
        Ranker(model).rank("a", ["b"], top_k=0)
