"""Gaps filled by a real, tiny model."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.encoder_bundle import TinyEncoder, write_encoder_bundle
from support.token_tasks import CONTEXT, write_task_bundle

from edgelm.encoder_model import EncoderModel, load_encoder
from edgelm.errors import ConfigError, ContextLengthError, PromptError, UnsupportedModelError
from edgelm.tasks.fill_mask import MaskFiller, best_tokens

GAP = "she sells [MASK] shells"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EncoderModel]:
    folder = write_task_bundle(tmp_path_factory.mktemp("bundles") / "mask", "fill-mask")
    with load_encoder(folder, prepack=False) as loaded:
        yield loaded


@pytest.fixture(scope="module")
def filler(model: EncoderModel) -> MaskFiller:
    return MaskFiller(model)


def test_one_gap_has_a_list_of_fillings(filler: MaskFiller) -> None:
    (filled,) = filler.fill([GAP], top_k=3)
    (fillings,) = filled.as_dict()["gaps"]
    assert len(fillings) == 3
    for filling in fillings:
        assert list(filling) == ["score", "token", "token_str", "sequence"]
    words = [f for f in fillings if f["token_str"].isalpha()]
    assert all(f["sequence"] == f"she sells {f['token_str']} shells" for f in words)
    assert [f["score"] for f in fillings] == sorted((f["score"] for f in fillings), reverse=True)


def test_several_gaps_have_a_list_each_and_keep_the_other_masks(filler: MaskFiller) -> None:
    (filled,) = filler.fill(["[MASK] sells [MASK]"], top_k=2)
    first, second = filled.as_dict()["gaps"]
    assert len(first) == len(second) == 2
    assert first[0]["sequence"].endswith("sells [MASK] [SEP]")
    assert second[0]["sequence"].startswith("[CLS] [MASK] sells")


def test_only_the_mask_is_read_as_a_token(filler: MaskFiller, model: EncoderModel) -> None:
    (filled,) = filler.fill(["[SEP] [MASK] [CLS]"], targets=["sea"])
    # "[SEP]" was taken letter by letter, not as a token that decoding leaves out.
    assert "s" in filled.gaps[0][0].sequence.replace("sea", "")
    assert model.text_encoder.encode(GAP).ids.count(model.tokenizer.token_to_id("[MASK]")) == 0


def test_targets_are_compared_alone_with_their_own_probabilities(filler: MaskFiller) -> None:
    everything = {f.token: f.score for f in filler.fill([GAP], top_k=None)[0].gaps[0]}
    assert sum(everything.values()) == pytest.approx(1, abs=1e-4)
    (filled,) = filler.fill([GAP], targets=["sea", "fox", "sea"])
    assert {f.token_str for f in filled.gaps[0]} == {"sea", "fox"}
    assert all(f.score == pytest.approx(everything[f.token]) for f in filled.gaps[0])
    assert len(filler.fill([GAP], targets="dog")[0].gaps[0]) == 1


def test_a_target_out_of_the_vocabulary_stands_for_its_first_token(filler: MaskFiller) -> None:
    with pytest.warns(UserWarning, match="no token 'seahorse': 'sea' is compared in its place"):
        (filled,) = filler.fill([GAP], targets=["seahorse"])
    assert filled.gaps[0][0].token_str == "sea"


def test_a_target_without_text_is_ignored(filler: MaskFiller) -> None:
    with (
        pytest.warns(UserWarning, match="no token '': ignored"),
        pytest.raises(ConfigError, match="targets must name at least one token"),
    ):
        filler.fill([GAP], targets=[""])


def test_a_batch_gives_what_its_texts_give_alone(filler: MaskFiller) -> None:
    texts = [GAP, "[MASK]", "the lazy [MASK] and the quick brown [MASK] jump over dogs"]
    for text, together in zip(texts, filler.fill(texts), strict=True):
        (alone,) = filler.fill([text])
        for ours, theirs in zip(together.gaps, alone.gaps, strict=True):
            assert [f.token for f in ours] == [f.token for f in theirs]
            assert [f.score for f in ours] == pytest.approx([f.score for f in theirs], abs=1e-5)


@pytest.mark.parametrize(
    ("texts", "settings", "error", "message"),
    [
        (["no gap"], {}, PromptError, r"text 0 has no gap: mark one with \[MASK\]"),
        ([GAP, ""], {}, PromptError, "text 1 has no gap"),
        (
            ["sea " * CONTEXT + "[MASK]"],
            {},
            ContextLengthError,
            rf"text 0 has {CONTEXT + 3} tokens; .* takes {CONTEXT}",
        ),
        ([GAP], {"top_k": 0}, ConfigError, "top_k must be at least 1, not 0"),
        ([GAP], {"targets": []}, ConfigError, "targets must name at least one token"),
    ],
    ids=str,
)
def test_what_cannot_be_asked_for(
    filler: MaskFiller, texts: list[str], settings: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        filler.fill(texts, **settings)


def test_a_model_for_something_else_is_refused(tmp_path: Path) -> None:
    folder = write_task_bundle(tmp_path / "bundle", "question-answering")
    with load_encoder(folder, prepack=False) as other, pytest.raises(UnsupportedModelError, match="question-answering"):
        MaskFiller(other)


def test_the_mask_token_is_known_by_its_usual_name_too(tmp_path: Path) -> None:
    folder = write_encoder_bundle(tmp_path / "bundle", TinyEncoder(task="fill-mask"))
    with load_encoder(folder, prepack=False) as loaded:
        assert MaskFiller(loaded).mask_token == "[MASK]"


@given(
    st.lists(st.lists(st.floats(-20, 20, width=32), min_size=6, max_size=6), min_size=1, max_size=3),
    st.integers(1, 8),
    st.none() | st.sets(st.integers(0, 5), min_size=1),
)
def test_the_best_tokens_are_those_of_the_sorted_probabilities(
    rows: list[list[float]], top_k: int, targets: set[int] | None
) -> None:
    logits = np.array(rows, np.float32)
    found = best_tokens(logits, top_k, None if targets is None else np.array(sorted(targets)))
    allowed = range(6) if targets is None else sorted(targets)
    for row, candidates in zip(logits.astype(float), found, strict=True):
        probabilities = np.exp(row - row.max()) / np.exp(row - row.max()).sum()
        expected = sorted((probabilities[i] for i in allowed), reverse=True)[:top_k]
        assert [score for _, score in candidates] == pytest.approx(expected, rel=1e-4, abs=1e-7)
        assert all(probabilities[i] == pytest.approx(score, rel=1e-4, abs=1e-7) for i, score in candidates)
        assert len({i for i, _ in candidates}) == len(candidates)
