"""Pipelines of encoders over whole texts, under transformers' names, with its settings and its answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from edgelm.encoder_model import EncoderModel
from edgelm.errors import PromptError
from edgelm.language_model import LanguageModel
from edgelm.tasks.any_labels import zero_shot_classifier
from edgelm.tasks.classification import TextClassifier, checked_function
from edgelm.tasks.embedding import FeatureExtractor
from edgelm.tasks.pipeline_inputs import SENTENCES, one_or_many, text_or_pair
from edgelm.tasks.ranking import Ranker
from edgelm.tasks.similarity import cosine_matrix
from edgelm.tasks.zero_shot import HYPOTHESIS_TEMPLATE
from edgelm.text.encoding import refuse_single

Call = Callable[..., Any]
# Stands for "not given", where None means "all".
_TOP = object()


def feature_extraction(model: EncoderModel, task: str) -> Call:
    """Text → [[[float, …] for each token]]; ``return_tensors=True``: (1, tokens, hidden) float32."""
    extractor = FeatureExtractor(model)

    def call(inputs: Any, *, truncation: bool = False, return_tensors: bool = False) -> Any:
        def run(texts: list[str]) -> list[Any]:
            features = (array[None] for array in extractor.extract(texts, truncation=truncation))
            return [array if return_tensors else array.tolist() for array in features]

        return one_or_many(inputs, run)

    return call


def sentence_similarity(model: EncoderModel, task: str) -> Call:
    """``{"source_sentence": …, "sentences": [...]}`` → a cosine for each sentence, as the hub's inference API does."""
    model.require_task("feature-extraction")

    def call(
        inputs: Any = None, *, source_sentence: Any = None, sentences: Any = None, truncation: bool = False
    ) -> list[float]:
        if inputs is not None and (source_sentence is not None or sentences is not None):
            raise PromptError("the sentences are given twice: in the inputs and by name")
        given = {"source_sentence": source_sentence, "sentences": sentences} if inputs is None else inputs
        named = isinstance(given, Mapping) and set(given) == {"source_sentence", "sentences"}
        if not named or given["sentences"] is None:
            raise PromptError(f"{task} takes {SENTENCES}")
        refuse_single(given["sentences"])
        vectors = model.embed([given["source_sentence"], *given["sentences"]], truncation=truncation)
        return [float(score) for score in cosine_matrix(vectors[:1], vectors[1:])[0]]

    return call


def text_classification(model: EncoderModel, task: str) -> Call:
    """Text or pair → [{"label", "score"}]; a list → a dict for each, or with ``top_k`` a list of dicts for each."""
    classifier = TextClassifier(model)

    def call(inputs: Any, *, top_k: Any = _TOP, function_to_apply: str | None = None, truncation: bool = False) -> Any:
        function = None if function_to_apply is None else checked_function(function_to_apply)
        count = 1 if top_k is _TOP else top_k

        def run(given: list[Any]) -> list[Any]:
            texts = [text_or_pair(one) for one in given]
            labelled = classifier.classify(texts, top_k=count, function=function, truncation=truncation)
            answers = [[label.as_dict() for label in labels] for labels in labelled]
            return [labels[0] for labels in answers] if top_k is _TOP else answers

        answer = one_or_many(inputs, run)
        return [answer] if isinstance(inputs, str) and top_k is _TOP else answer

    return call


def text_ranking(model: EncoderModel, task: str) -> Call:
    """``query`` and ``passages`` → [{"index", "score", "text"}], best first."""
    ranker = Ranker(model)

    def call(
        query: str,
        passages: Sequence[str],
        *,
        top_k: int | None = None,
        function_to_apply: str = "sigmoid",
        truncation: bool = False,
    ) -> list[dict[str, Any]]:
        function = checked_function(function_to_apply)
        found = ranker.rank(query, passages, top_k=top_k, function=function, truncation=truncation)
        return [passage.as_dict() for passage in found]

    return call


def zero_shot_classification(model: EncoderModel | LanguageModel, task: str) -> Call:
    """Text and ``candidate_labels`` → {"sequence", "labels", "scores"}. As in transformers, long texts are cut."""
    classifier = zero_shot_classifier(model)

    def call(
        inputs: Any,
        candidate_labels: str | Sequence[str] = (),
        *,
        hypothesis_template: str = HYPOTHESIS_TEMPLATE,
        multi_label: bool = False,
        truncation: bool = True,
    ) -> Any:
        def run(texts: list[str]) -> list[Any]:
            results = classifier.classify(
                texts,
                candidate_labels,
                hypothesis_template=hypothesis_template,
                multi_label=multi_label,
                truncation=truncation,
            )
            return [result.as_dict() for result in results]

        return one_or_many(inputs, run)

    return call
