"""Answers to questions that stand in a document, word for word."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgelm.checks import check_int
from edgelm.encoder_model import EncoderModel
from edgelm.errors import ConfigError, ContextLengthError, PromptError
from edgelm.tasks.answer_spans import Answer, Window, best_answers
from edgelm.text.encoding import Encoding, Truncation

TASK = "question-answering"
# As in transformers' pipeline: models are trained with windows of this length and overlap.
USUAL_WINDOW = 384
USUAL_STRIDE = 128


@dataclass(frozen=True, slots=True)
class Question:
    """A question and the document, ``context``, that may answer it."""

    question: str
    context: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerConfig:
    """How answers are looked for; names and defaults are those of transformers' pipeline.

    Attributes:
        top_k: most answers to a question.
        max_answer_len: most tokens of an answer.
        max_seq_len: tokens of question and document in one window; None: 384, or the model's limit.
        doc_stride: tokens of the document by which windows overlap; None: 128, or half a window.
        handle_impossible_answer: "no answer" (an empty text) may be the answer.
        align_to_words: answers are whole words.

    Raises:
        ConfigError: a number is out of range.
    """

    top_k: int = 1
    max_answer_len: int = 15
    max_seq_len: int | None = None
    doc_stride: int | None = None
    handle_impossible_answer: bool = False
    align_to_words: bool = True

    def __post_init__(self) -> None:
        check_int("top_k", self.top_k, 1)
        check_int("max_answer_len", self.max_answer_len, 1)
        for name, least in (("max_seq_len", 1), ("doc_stride", 0)):
            if getattr(self, name) is not None:
                check_int(name, getattr(self, name), least)


class QuestionAnswerer:
    """Answers questions with a model that points at the answer; may be used by many threads.

    Args:
        model: stays its caller's, who closes it.

    Raises:
        UnsupportedModelError: the model is for something else; says what.
    """

    def __init__(self, model: EncoderModel) -> None:
        model.require_task(TASK)
        self._model = model
        # Its logits stand for "no answer".
        self._first_token = model.special_token_id("cls_token")

    def answer(self, questions: Sequence[Question], config: AnswerConfig | None = None) -> list[list[Answer]]:
        """The likeliest answers to each question, best first; a document may be of any length.

        Raises:
            ConfigError: windows are longer than the model takes, or overlap by more than a window has room.
            ContextLengthError: a question leaves no room for the document.
            PromptError: a question or document is empty, no string, or has lone surrogates.
        """
        config = config or AnswerConfig()
        encodings = self._encode(questions, config)
        windows = [window for encoding in encodings for window in encoding.windows]
        outputs = iter(self._model.run(windows))
        answers: list[list[Answer]] = []
        for question, encoding in zip(questions, encodings, strict=True):
            answers.append(
                best_answers(
                    [self._window(window, next(outputs)) for window in encoding.windows],
                    question.context,
                    top_k=config.top_k,
                    max_answer_len=config.max_answer_len,
                    no_answer=config.handle_impossible_answer,
                    align_to_words=config.align_to_words,
                )
            )
        return answers

    def _encode(self, questions: Sequence[Question], config: AnswerConfig) -> list[Encoding]:
        """Question and document, with windows; those that are cut alike are encoded together."""
        encoder = self._model.text_encoder
        for number, question in enumerate(questions):
            for name in ("question", "context"):
                if getattr(question, name) == "":
                    raise PromptError(f"question {number}: {name} is empty")
        lengths = [len(encoding) for encoding in encoder.encode_batch([q.question for q in questions], offsets=False)]
        groups: dict[Truncation, list[int]] = {}
        for number, length in enumerate(lengths):
            truncation = self._truncation(length - encoder.added_tokens(pair=False), config)
            groups.setdefault(truncation, []).append(number)
        encodings: dict[int, Encoding] = {}
        for truncation, numbers in groups.items():
            pairs = [(questions[number].question, questions[number].context) for number in numbers]
            encodings |= zip(numbers, encoder.encode_batch(pairs, truncation=truncation), strict=True)
        return [encodings[number] for number in range(len(questions))]

    def _truncation(self, question_tokens: int, config: AnswerConfig) -> Truncation:
        limit = self._model.context_length
        length = min(limit, USUAL_WINDOW) if config.max_seq_len is None else config.max_seq_len
        if length > limit:
            raise ConfigError(f"max_seq_len must be at most {limit} for {self._model.name}, not {length}")
        room = length - self._model.text_encoder.added_tokens(pair=True) - question_tokens
        if room < 1:
            raise ContextLengthError(
                f"the question has {question_tokens} tokens, which leaves no room for the document in a window "
                f"of {length}"
            )
        stride = config.doc_stride
        if stride is None:
            usual = min(length // 2, USUAL_STRIDE)
            stride = usual if usual < room else room // 2
        elif stride >= room:
            raise ConfigError(
                f"doc_stride must be below {room}, the document's tokens in a window of {length}, not {stride}"
            )
        return Truncation(max_length=length, strategy="only_second", stride=stride)

    def _window(self, encoding: Encoding, outputs: dict[str, NDArray[np.float32]]) -> Window:
        of_document = [sequence == 1 for sequence in encoding.sequence_ids]
        return Window(
            start_logits=outputs["start_logits"],
            end_logits=outputs["end_logits"],
            candidates=np.array(of_document) | (np.array(encoding.ids) == self._first_token),
            offsets=encoding.offsets,
            words=[word if own else None for word, own in zip(encoding.word_ids, of_document, strict=True)],
        )
