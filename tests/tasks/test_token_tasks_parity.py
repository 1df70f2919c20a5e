"""Entities, answers and fillings are those of transformers' pipelines on the same checkpoints."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
from support.task_models import CONTEXT, KINDS, LONG_TEXT, TEXTS, Kind, reference_pipeline, write_task_checkpoint

from edgelm.bundle.manifest import Source
from edgelm.encoder_model import EncoderModel, load_encoder
from edgelm.tasks.entities import AGGREGATIONS, Aggregation
from edgelm.tasks.pipelines import pipeline
from edgelm.tasks.question_answering import AnswerConfig, Question, QuestionAnswerer
from edgelm.tasks.token_classification import TokenClassifier
from edgelm_tools.export import export

pytestmark = pytest.mark.reference

# Each kind of tokenizer with a model or two.
CASES = tuple(zip((*KINDS, KINDS[0]), range(4), strict=True))
TOLERANCE = 1e-3
QUESTION = "Who jumps over the dog?"

# transformers' pipeline of a checkpoint, and its fp32 bundle.
Opened = tuple[Any, EncoderModel]


def opener(factory: pytest.TempPathFactory, head: str, task: str) -> Callable[[Kind, int], Opened]:
    """Makes them once for each kind and seed."""
    made: dict[tuple[str, int], Opened] = {}

    def opened(kind: Kind, seed: int) -> Opened:
        if (kind.name, seed) not in made:
            folder = write_task_checkpoint(factory.mktemp(kind.name) / "checkpoint", kind, head, seed)
            bundle = folder.with_name("bundle")
            export(folder, bundle, name=kind.name, origin=Source("test:tiny"), scheme="fp32", report=False)
            made[kind.name, seed] = reference_pipeline(task, folder), load_encoder(bundle, prepack=False)
        return made[kind.name, seed]

    return opened


@pytest.fixture(scope="module")
def labelling(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Kind, int], Opened]:
    return opener(tmp_path_factory, "ForTokenClassification", "token-classification")


@pytest.fixture(scope="module")
def answering(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Kind, int], Opened]:
    return opener(tmp_path_factory, "ForQuestionAnswering", "question-answering")


@pytest.fixture(scope="module")
def filling(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Kind, int], Opened]:
    return opener(tmp_path_factory, "ForMaskedLM", "fill-mask")


def reference(pipeline: Any, *inputs: Any, **settings: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pipeline(*inputs, **settings)


def assert_same(ours: Any, theirs: Any) -> None:
    """Equal but for scores, which may differ by rounding."""
    if isinstance(theirs, list):
        assert len(ours) == len(theirs), (ours, theirs)
        for our, their in zip(ours, theirs, strict=True):
            assert_same(our, their)
        return
    assert list(ours) == list(theirs)
    assert ours["score"] == pytest.approx(float(theirs["score"]), abs=TOLERANCE)
    assert ours | {"score": 0} == theirs | {"score": 0}


@pytest.mark.parametrize(("kind", "seed"), CASES, ids=str)
class TestTokenClassification:
    @pytest.mark.parametrize("ignored", [("O",), ("PER", "B-LOC")], ids=str)
    @pytest.mark.parametrize("aggregation", AGGREGATIONS)
    def test_entities(
        self, labelling: Any, kind: Kind, seed: int, aggregation: Aggregation, ignored: tuple[str, ...]
    ) -> None:
        theirs_of, model = labelling(kind, seed)
        ours = TokenClassifier(model).classify(TEXTS, aggregation=aggregation, ignore_labels=ignored)
        theirs = [
            reference(theirs_of, text, aggregation_strategy=aggregation, ignore_labels=list(ignored)) for text in TEXTS
        ]
        assert_same([[entity.as_dict() for entity in entities] for entities in ours], theirs)

    def test_the_labels_vary(self, labelling: Any, kind: Kind, seed: int) -> None:
        _, model = labelling(kind, seed)
        found = TokenClassifier(model).classify(TEXTS, ignore_labels=())
        assert len({entity.label for entities in found for entity in entities}) > 3

    @pytest.mark.parametrize("stride", [3, 20])
    @pytest.mark.parametrize("aggregation", AGGREGATIONS[1:])
    def test_a_long_text_with_a_stride(
        self, labelling: Any, kind: Kind, seed: int, aggregation: Aggregation, stride: int
    ) -> None:
        theirs_of, model = labelling(kind, seed)
        (ours,) = TokenClassifier(model).classify([LONG_TEXT], aggregation=aggregation, stride=stride, ignore_labels=())
        theirs = reference(theirs_of, LONG_TEXT, stride=stride, aggregation_strategy=aggregation, ignore_labels=[])
        assert_same([entity.as_dict() for entity in ours], theirs)


@pytest.mark.parametrize(("kind", "seed"), CASES, ids=str)
class TestQuestionAnswering:
    @pytest.mark.parametrize(
        "settings",
        [
            {},
            {"top_k": 3},
            {"top_k": 7, "handle_impossible_answer": True},
            {"max_answer_len": 2, "top_k": 4},
            {"align_to_words": False, "top_k": 2},
            {"align_to_words": False, "handle_impossible_answer": True},
            {"max_seq_len": 50, "doc_stride": 3, "top_k": 3, "handle_impossible_answer": True},
        ],
        ids=str,
    )
    def test_answers(self, answering: Any, kind: Kind, seed: int, settings: dict[str, Any]) -> None:
        theirs_of, model = answering(kind, seed)
        # Without a stride, transformers fails where the question is long: its default leaves no room.
        settings = {"doc_stride": 5, **settings}
        contexts = [text for text in TEXTS if len(text) > 1] + [LONG_TEXT]
        ours = QuestionAnswerer(model).answer([Question(QUESTION, c) for c in contexts], AnswerConfig(**settings))
        for answers, context in zip(ours, contexts, strict=True):
            theirs = reference(theirs_of, question=QUESTION, context=context, **settings)
            assert_same([answer.as_dict() for answer in answers], theirs if isinstance(theirs, list) else [theirs])

    def test_a_usual_stride_that_leaves_no_room_is_made_smaller(self, answering: Any, kind: Kind, seed: int) -> None:
        theirs_of, model = answering(kind, seed)
        question = "sea"
        while len(model.text_encoder.encode(question)) < 0.6 * CONTEXT:
            question += " sea"
        with pytest.raises(BaseException, match=r"Truncation|stride|max_len"):
            reference(theirs_of, question=question, context=LONG_TEXT)
        (answers,) = QuestionAnswerer(model).answer([Question(question, LONG_TEXT)])
        assert LONG_TEXT[answers[0].start : answers[0].end] == answers[0].answer


@pytest.mark.parametrize(("kind", "seed"), CASES, ids=str)
class TestFillMask:
    @pytest.mark.parametrize(
        "settings", [{}, {"top_k": 2}, {"targets": ["fox", "sea", "user"]}, {"targets": "dog", "top_k": 9}], ids=str
    )
    @pytest.mark.filterwarnings("ignore:the vocabulary has no token")
    def test_fillings(self, filling: Any, kind: Kind, seed: int, settings: dict[str, Any]) -> None:
        theirs_of, model = filling(kind, seed)
        mask = kind.roles["mask_token"]
        texts = [
            f"She's the quick {mask} fox , isn't she?",
            mask,
            f"naïve {mask}, façade 🌍 {mask}?",
            f"user{mask}world {mask} {mask}",
        ]
        ours = pipeline("fill-mask", model)(texts, **settings)
        for filled, text in zip(ours, texts, strict=True):
            assert_same(filled, reference(theirs_of, text, **settings))


BATCHES = (
    ("labelling", "ner", ["sea shells", TEXTS[0]], {"aggregation_strategy": "simple"}),
    ("labelling", "token-classification", ["sea shells"], {"ignore_labels": []}),
    ("filling", "fill-mask", ["sea [MASK]", "[MASK] [MASK]"], {}),
    ("filling", "fill-mask", ["sea [MASK]"], {"top_k": 2}),
    ("answering", "question-answering", {"question": QUESTION, "context": TEXTS[0]}, {}),
    ("answering", "question-answering", [{"question": QUESTION, "context": text} for text in TEXTS[:2]], {"top_k": 2}),
    ("answering", "question-answering", None, {"question": [QUESTION, "Who?"], "context": TEXTS[0]}),
)


@pytest.mark.parametrize(("fixture", "task", "inputs", "settings"), BATCHES, ids=str)
def test_pipelines_take_and_give_the_same_forms(
    request: pytest.FixtureRequest, fixture: str, task: str, inputs: Any, settings: dict[str, Any]
) -> None:
    theirs, model = request.getfixturevalue(fixture)(KINDS[0], 0)
    given = [] if inputs is None else [inputs]
    assert_same(pipeline(task, model)(*given, **settings), reference(theirs, *given, **settings))


def test_the_long_text_is_longer_than_a_window(labelling: Any) -> None:
    for kind in KINDS:
        _, model = labelling(kind, 0)
        assert len(model.text_encoder.encode(LONG_TEXT)) > 2 * CONTEXT
