"""Pipelines of encoders over single tokens, under transformers' names, with its settings and its answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from edgelm.encoder_model import EncoderModel
from edgelm.errors import PromptError
from edgelm.tasks.fill_mask import MaskFiller
from edgelm.tasks.pipeline_inputs import one_or_many, refuse_unknown
from edgelm.tasks.question_answering import AnswerConfig, Question, QuestionAnswerer
from edgelm.tasks.token_classification import TokenClassifier

Call = Callable[..., Any]
_QUESTION = ("question", "context")
_ANSWERS = (
    "top_k",
    "max_answer_len",
    "max_seq_len",
    "doc_stride",
    "handle_impossible_answer",
    "align_to_words",
)


def token_classification(model: EncoderModel, task: str) -> Call:
    """Text → a list of dicts, one for each token or entity (``aggregation_strategy``)."""
    classifier = TokenClassifier(model)

    def call(
        inputs: Any,
        *,
        aggregation_strategy: Any = "none",
        ignore_labels: Sequence[str] = ("O",),
        stride: int | None = None,
    ) -> Any:
        def run(texts: list[str]) -> list[Any]:
            found = classifier.classify(
                texts, aggregation=aggregation_strategy, ignore_labels=ignore_labels, stride=stride
            )
            return [[entity.as_dict() for entity in entities] for entities in found]

        return one_or_many(inputs, run)

    return call


def question_answering(model: EncoderModel, task: str) -> Call:
    """``question`` and ``context``, strings or lists, or dicts of them → {"score", "start", "end", "answer"}.

    With ``top_k`` above 1: a list of such dicts for each question.
    """
    answerer = QuestionAnswerer(model)

    def call(inputs: Any = None, **settings: Any) -> Any:
        refuse_unknown(settings, (*_QUESTION, *_ANSWERS), task)
        if inputs is not None and (twice := sorted(set(_QUESTION) & settings.keys())):
            raise PromptError(f"{twice[0]} is given twice: in the inputs and by its name")
        given = _questions({name: settings.get(name) for name in _QUESTION} if inputs is None else inputs)
        config = AnswerConfig(**{name: value for name, value in settings.items() if name in _ANSWERS})

        def run(questions: list[Question]) -> list[Any]:
            found = answerer.answer(questions, config)
            answers = [[answer.as_dict() for answer in answers] for answers in found]
            return [one[0] if len(one) == 1 else one for one in answers]

        # As in transformers, a list of one question is one question.
        return run(given)[0] if len(given) == 1 else run(given)

    return call


def fill_mask(model: EncoderModel, task: str) -> Call:
    """Text with a mask token → [{"score", "token", "token_str", "sequence"}], a list of such lists for several."""
    filler = MaskFiller(model)

    def call(inputs: Any, *, top_k: int | None = 5, targets: str | Sequence[str] | None = None) -> Any:
        def run(texts: list[str]) -> list[Any]:
            gaps = [filled.as_dict()["gaps"] for filled in filler.fill(texts, top_k=top_k, targets=targets)]
            return [one[0] if len(one) == 1 else one for one in gaps]

        answers = one_or_many(inputs, run)
        # As in transformers, a list of one text is one text.
        return answers[0] if not isinstance(inputs, str) and len(inputs) == 1 else answers

    return call


def _questions(given: Any) -> list[Question]:
    if isinstance(given, Mapping):
        questions, contexts = (given.get(name) for name in _QUESTION)
        if isinstance(questions, str):
            questions = [questions]
        if isinstance(contexts, str) and isinstance(questions, Sequence):
            contexts = [contexts] * len(questions)
        if isinstance(questions, Sequence) and isinstance(contexts, Sequence) and len(questions) == len(contexts) > 0:
            return [_question(question, context) for question, context in zip(questions, contexts, strict=True)]
        raise PromptError("question-answering takes a question and a context, or as many of each")
    if isinstance(given, Sequence) and not isinstance(given, str) and given:
        return [_questions(one)[0] for one in given]
    raise PromptError('question-answering takes {"question": "…", "context": "…"}, or a list of them')


def _question(question: Any, context: Any) -> Question:
    if not isinstance(question, str) or not isinstance(context, str):
        raise PromptError("question and context must be strings")
    return Question(question, context)
