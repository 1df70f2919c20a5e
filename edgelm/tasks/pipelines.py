"""``edgelm.pipeline``: transformers' names of tasks, and its dicts as answers, over the tasks of this package.

A task is a row of ``TASKS``: where its call is made, and what kind of model it takes. The modules are imported with
the first pipeline that needs them.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module
from inspect import Parameter, signature
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, NoReturn, Self

from edgelm.bundle.bundle import manifest_of
from edgelm.bundle.catalog import load_catalog
from edgelm.bundle.store import Store
from edgelm.encoder_model import EncoderModel, load_encoder
from edgelm.errors import ConfigError, ModelNotFoundError, PromptError, UnsupportedModelError
from edgelm.language_model import LanguageModel, load
from edgelm.tasks.pipeline_inputs import SENTENCES, refuse_unknown
from edgelm.text.language_codes import base_language

Model = EncoderModel | LanguageModel


@dataclass(frozen=True, slots=True)
class TaskRow:
    """A task of ``pipeline``.

    Attributes:
        home: ``module:function``, which takes the loaded model and the task's name and returns what is called with
            the inputs.
        model: what is loaded for it: an ``encoder``, a ``language`` model, or ``any`` of them.
        takes: what it is called with, for messages.
        unwraps: a list of one input is answered as that input alone is, as in transformers.
    """

    home: str
    model: Literal["encoder", "language", "any"]
    takes: str = "a text or a list of texts"
    unwraps: bool = False


_ENCODERS, _TOKENS, _LANGUAGE = (f"edgelm.tasks.{name}_pipelines" for name in ("encoder", "token", "language"))
TASKS: dict[str, TaskRow] = {
    "feature-extraction": TaskRow(f"{_ENCODERS}:feature_extraction", "encoder"),
    "sentence-similarity": TaskRow(f"{_ENCODERS}:sentence_similarity", "encoder", SENTENCES),
    "text-classification": TaskRow(f"{_ENCODERS}:text_classification", "encoder"),
    "text-ranking": TaskRow(f"{_ENCODERS}:text_ranking", "encoder", 'query="…", passages=["…", …]'),
    "zero-shot-classification": TaskRow(
        f"{_ENCODERS}:zero_shot_classification", "any", 'a text or a list of texts, and candidate_labels=["…", …]'
    ),
    "token-classification": TaskRow(f"{_TOKENS}:token_classification", "encoder"),
    "question-answering": TaskRow(
        f"{_TOKENS}:question_answering", "encoder", 'question="…", context="…"', unwraps=True
    ),
    "fill-mask": TaskRow(f"{_TOKENS}:fill_mask", "encoder", unwraps=True),
    "text-generation": TaskRow(f"{_LANGUAGE}:text_generation", "language"),
    "text2text-generation": TaskRow(f"{_LANGUAGE}:text2text_generation", "language"),
    "summarization": TaskRow(f"{_LANGUAGE}:summarization", "language"),
    "translation": TaskRow(f"{_LANGUAGE}:translation", "language"),
}
ALIASES = {"sentiment-analysis": "text-classification", "ner": "token-classification"}
# ``translation_en_to_pt`` is the task ``translation`` with its languages in the name.
_PAIR = re.compile(r"(translation)_(\w+?)_to_(\w+)")


class Pipeline:
    """A task with a model; call it with a text or a list of texts. A context manager.

    Args:
        task: its name.
        model: loaded.
        call: what does it.
        row: the task's.
        owned: ``close`` closes the model too.
    """

    def __init__(self, task: str, model: Model, call: Callable[..., Any], row: TaskRow, *, owned: bool) -> None:
        self.task = task
        self.model = model
        self._call = call
        self._takes = row.takes
        self._unwraps = row.unwraps
        self._owned = owned

    def __call__(self, *inputs: Any, **settings: Any) -> Any:
        """The answer as transformers' pipeline of that task gives it: for a list of inputs, a list of answers.

        Of a generator, an iterator over the answers, which takes an input when its answer is asked for.

        Raises:
            ConfigError: a setting is unknown or out of range.
            PromptError: an input is of the wrong kind, or cannot be encoded; ContextLengthError: it is too long.
            ClosedError: the model is closed.
        """
        call = signature(self._call)
        known = call.parameters.values()
        if all(parameter.kind is not Parameter.VAR_KEYWORD for parameter in known):
            refuse_unknown(settings, [parameter.name for parameter in known], self.task)
        try:
            call.bind(*inputs, **settings)
        except TypeError as error:
            raise PromptError(f"{self.task} takes {self._takes}: {error}") from None
        if inputs and isinstance(inputs[0], Iterator):
            return self._each(inputs[0], inputs[1:], settings)
        return self._call(*inputs, **settings)

    def _each(self, inputs: Iterator[Any], others: tuple[Any, ...], settings: Mapping[str, Any]) -> Iterator[Any]:
        size = settings.get("batch_size") or 1
        while some := list(islice(inputs, size)):
            answers = self._call(some, *others, **settings)
            yield from [answers] if len(some) == 1 and self._unwraps else answers

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.task} with {self.model!r}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Closes the model, if this pipeline loaded it; may be called twice."""
        if self._owned:
            self.model.close()


def pipeline(task: str, model: str | os.PathLike[str] | Model | None = None, **load_settings: Any) -> Pipeline:
    """A model for a task, by transformers' names.

    What writes text takes the likeliest token each time, unless the model's files or the call ask for beams or for
    sampling; transformers' pipelines search with 4 beams, or sample.

    Args:
        task: one of ``TASKS`` or ``ALIASES``, or ``translation_XX_to_YY``.
        model: a name that ``edgelm list`` shows, a folder, or a loaded model, which stays its caller's; None: the
            catalog's model for the task.
        load_settings: settings of ``load`` or ``load_encoder``.

    Raises:
        ConfigError: the task is not known (names those that are), or there are settings for a loaded model.
        UnsupportedModelError: the model is for something else; says what.
        Others: see ``load``.
    """
    row = _row(task)
    if isinstance(model, EncoderModel | LanguageModel):
        if load_settings:
            raise ConfigError(f"{sorted(load_settings)[0]} is a setting for loading, but the model is loaded already")
        return Pipeline(task, model, _call(row, model, task), row, owned=False)
    loaded = _load(row, default_model(task) if model is None else model, load_settings)
    try:
        return Pipeline(task, loaded, _call(row, loaded, task), row, owned=True)
    except BaseException:
        loaded.close()
        raise


def default_model(task: str) -> str:
    """The first model of the catalog for a task.

    Raises:
        ModelNotFoundError: the catalog has none.
    """
    wanted, catalog = (task, ALIASES.get(task, task)), load_catalog()
    pair = _PAIR.fullmatch(task)
    if pair:
        translators = catalog.translators(base_language(pair[2]), base_language(pair[3]) or pair[3])
        return translators[0].name if translators else _no_model(task)
    for entry in catalog.entries.values():
        if any(name in entry.tasks for name in wanted):
            return entry.name
    return _no_model(task)


def _no_model(task: str) -> NoReturn:
    raise ModelNotFoundError(f"the catalog has no model for {task}: give one, by name or folder")


def _row(task: str) -> TaskRow:
    pair = _PAIR.fullmatch(task) if isinstance(task, str) else None
    row = TASKS.get(pair[1] if pair else ALIASES.get(task, task))
    if row is None:
        known = ", ".join(sorted({*TASKS, *ALIASES}))
        raise ConfigError(f"there is no task {task!r:.80}; known are: {known}")
    return row


def _call(row: TaskRow, model: Model, task: str) -> Callable[..., Any]:
    if row.model != "any" and isinstance(model, EncoderModel) != (row.model == "encoder"):
        manifest = model.bundle.manifest
        raise UnsupportedModelError(f"{manifest.name} is for {', '.join(manifest.tasks)}, not for {task}")
    module, _, function = row.home.partition(":")
    call: Callable[..., Any] = getattr(import_module(module), function)(model, task)
    return call


def _load(row: TaskRow, model: str | os.PathLike[str], settings: dict[str, Any]) -> Model:
    folder = Path(model) if isinstance(model, os.PathLike) else Store().resolve(model)
    kind = row.model
    if kind == "any":
        family = manifest_of(folder, variant=settings.get("variant")).family
        kind = "encoder" if family == "encoder" else "language"
    loader = load_encoder if kind == "encoder" else load
    refuse_unknown(settings, [name for name in signature(loader).parameters if name != "model"], "loading a model")
    loaded: Model = loader(folder, **settings)
    return loaded
