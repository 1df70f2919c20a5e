"""Entities found by a real, tiny model."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.token_tasks import CONTEXT, ENTITY_LABELS, LONG_TEXT, write_task_bundle

from edgelm.encoder_model import EncoderModel, load_encoder
from edgelm.errors import ConfigError, PromptError, UnsupportedModelError
from edgelm.tasks.entities import AGGREGATIONS, Aggregation, Entity
from edgelm.tasks.token_classification import TokenClassifier

SHORT = "She sells sea shells."


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EncoderModel]:
    folder = write_task_bundle(tmp_path_factory.mktemp("bundles") / "ner", "token-classification")
    with load_encoder(folder, prepack=False) as loaded:
        yield loaded


@pytest.fixture(scope="module")
def classifier(model: EncoderModel) -> TokenClassifier:
    return TokenClassifier(model)


def tokens(classifier: TokenClassifier, text: str) -> list[Entity]:
    (found,) = classifier.classify([text], ignore_labels=())
    return found


def test_every_token_of_a_text_of_any_length_gets_one_label(classifier: TokenClassifier, model: EncoderModel) -> None:
    whole = model.text_encoder.encode(LONG_TEXT)
    assert len(whole) > 3 * CONTEXT
    found = tokens(classifier, LONG_TEXT)
    assert [(entity.start, entity.end) for entity in found] == whole.offsets[1:-1]
    assert [entity.index for entity in found] == list(range(1, len(whole) - 1))
    assert {entity.label for entity in found} <= set(ENTITY_LABELS)


@pytest.mark.parametrize("length", [CONTEXT - 3, CONTEXT - 2, CONTEXT - 1, CONTEXT, 2 * CONTEXT])
def test_around_the_length_of_a_window(classifier: TokenClassifier, length: int) -> None:
    assert len(tokens(classifier, "sea " * length)) == length


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
def test_entities_of_a_long_text_are_in_order_and_do_not_overlap(
    classifier: TokenClassifier, aggregation: Aggregation
) -> None:
    (found,) = classifier.classify([LONG_TEXT], aggregation=aggregation, ignore_labels=())
    text = "".join(LONG_TEXT[entity.start : entity.end] for entity in found).replace(" ", "")
    assert text == LONG_TEXT.replace(" ", "")


def test_a_short_text_has_the_same_entities_with_a_stride(classifier: TokenClassifier) -> None:
    plain = classifier.classify([SHORT], aggregation="simple", ignore_labels=())
    assert classifier.classify([SHORT], aggregation="simple", ignore_labels=(), stride=4) == plain


def test_a_batch_gives_what_its_texts_give_alone(classifier: TokenClassifier) -> None:
    texts = [SHORT, "", "sea", LONG_TEXT, "🌍 naïve [SEP] [MASK]"]
    batch = classifier.classify(texts, ignore_labels=())
    for text, together in zip(texts, batch, strict=True):
        alone = tokens(classifier, text)
        assert [(e.label, e.start, e.end, e.word) for e in together] == [
            (e.label, e.start, e.end, e.word) for e in alone
        ]
        assert [e.score for e in together] == pytest.approx([e.score for e in alone], abs=1e-5)


def test_no_texts_have_no_entities(classifier: TokenClassifier) -> None:
    assert classifier.classify([]) == []
    assert classifier.classify([""]) == [[]]


def test_unknown_tokens_are_shown_as_their_text(classifier: TokenClassifier) -> None:
    assert [entity.word for entity in tokens(classifier, "sea 🌍")] == ["sea", "🌍"]


def test_what_cannot_be_asked_for(classifier: TokenClassifier) -> None:
    with pytest.raises(ConfigError, match="aggregation is 'mean'"):
        classifier.classify([SHORT], aggregation="mean")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="aggregation 'none'"):
        classifier.classify([SHORT], stride=4)
    with pytest.raises(ConfigError, match="stride"):
        classifier.classify([SHORT], aggregation="simple", stride=CONTEXT - 2)
    with pytest.raises(PromptError, match=r"text 1.*lone surrogate"):
        classifier.classify([SHORT, "\ud800"])


def test_a_model_for_something_else_is_refused(tmp_path: Path) -> None:
    folder = write_task_bundle(tmp_path / "bundle", "fill-mask")
    with load_encoder(folder, prepack=False) as other, pytest.raises(UnsupportedModelError, match="fill-mask"):
        TokenClassifier(other)
