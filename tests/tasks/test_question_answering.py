"""Answers found by a real, tiny model."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.token_tasks import CONTEXT, LONG_TEXT, write_task_bundle

from edgelm.encoder_model import EncoderModel, load_encoder
from edgelm.errors import ConfigError, ContextLengthError, PromptError, UnsupportedModelError
from edgelm.tasks.question_answering import AnswerConfig, Question, QuestionAnswerer

QUESTION = "Who sells shells?"
SHORT = "She sells sea shells."


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EncoderModel]:
    folder = write_task_bundle(tmp_path_factory.mktemp("bundles") / "qa", "question-answering")
    with load_encoder(folder, prepack=False) as loaded:
        yield loaded


@pytest.fixture(scope="module")
def answerer(model: EncoderModel) -> QuestionAnswerer:
    return QuestionAnswerer(model)


@pytest.mark.parametrize("context", [SHORT, LONG_TEXT, "sea", "\n shells\t\u00a0naïve 🌍 ", "[SEP] [CLS] [MASK]"])
@pytest.mark.parametrize("top_k", [1, 5])
def test_answers_stand_in_the_document(answerer: QuestionAnswerer, context: str, top_k: int) -> None:
    (answers,) = answerer.answer([Question(QUESTION, context)], AnswerConfig(top_k=top_k))
    assert 0 < len(answers) <= top_k
    for answer in answers:
        assert context[answer.start : answer.end] == answer.answer
    assert [a.score for a in answers] == sorted((a.score for a in answers), reverse=True)


def test_answers_come_from_everywhere_in_a_long_document(answerer: QuestionAnswerer) -> None:
    numbered = " ".join(f"{'abcdefghijklmnopqrstuvwxyz'[i]}. sea shells" for i in range(26))
    (answers,) = answerer.answer(
        [Question(QUESTION, numbered)], AnswerConfig(top_k=500, max_answer_len=2, doc_stride=4)
    )
    starts = {answer.answer[0] for answer in answers if answer.answer}
    assert starts >= set("abcdefghijklmnopqrstuvwxyz")


def test_no_answer_is_an_answer_only_if_allowed(answerer: QuestionAnswerer) -> None:
    question = Question(QUESTION, SHORT)
    (plain,) = answerer.answer([question], AnswerConfig(top_k=50))
    (with_none,) = answerer.answer([question], AnswerConfig(top_k=50, handle_impossible_answer=True))
    assert [a for a in with_none if not a.answer and a.score > 0]
    assert not [a for a in plain if not a.answer and a.score > 0]


def test_a_batch_gives_what_its_questions_give_alone(answerer: QuestionAnswerer) -> None:
    questions = [Question(q, c) for q in (QUESTION, "Who?", "sea " * 9) for c in (SHORT, LONG_TEXT, "fox")]
    config = AnswerConfig(top_k=2)
    for question, together in zip(questions, answerer.answer(questions, config), strict=True):
        (alone,) = answerer.answer([question], config)
        assert [(a.start, a.end) for a in together] == [(a.start, a.end) for a in alone]
        assert [a.score for a in together] == pytest.approx([a.score for a in alone], abs=1e-5)


def test_no_questions_have_no_answers(answerer: QuestionAnswerer) -> None:
    assert answerer.answer([]) == []


def test_a_question_that_leaves_no_room_is_refused(answerer: QuestionAnswerer) -> None:
    long_question = Question("sea " * CONTEXT, SHORT)
    with pytest.raises(ContextLengthError, match=rf"{CONTEXT} tokens, which leaves no room .* window of {CONTEXT}"):
        answerer.answer([long_question])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_seq_len": CONTEXT + 1}, rf"max_seq_len must be at most {CONTEXT} for .*, not {CONTEXT + 1}"),
        ({"doc_stride": CONTEXT}, r"doc_stride must be below \d+, .* not 40"),
        ({"top_k": 0}, "top_k must be at least 1, not 0"),
        ({"max_answer_len": True}, "max_answer_len must be an integer, not True"),
        ({"doc_stride": -1}, "doc_stride must be at least 0, not -1"),
        ({"max_seq_len": 1.5}, "max_seq_len must be an integer"),
    ],
    ids=str,
)
def test_settings_out_of_range_are_refused(answerer: QuestionAnswerer, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        answerer.answer([Question(QUESTION, SHORT)], AnswerConfig(**settings))


@pytest.mark.parametrize(
    ("question", "message"),
    [
        (Question("", SHORT), "question 1: question is empty"),
        (Question(QUESTION, ""), "question 1: context is empty"),
        (Question(QUESTION, "\udc00"), "lone surrogate"),
    ],
    ids=str,
)
def test_texts_that_cannot_be_taken_are_refused(answerer: QuestionAnswerer, question: Question, message: str) -> None:
    with pytest.raises(PromptError, match=message):
        answerer.answer([Question(QUESTION, SHORT), question])


def test_a_model_for_something_else_is_refused(tmp_path: Path) -> None:
    folder = write_task_bundle(tmp_path / "bundle", "token-classification")
    with (
        load_encoder(folder, prepack=False) as other,
        pytest.raises(UnsupportedModelError, match="token-classification"),
    ):
        QuestionAnswerer(other)
