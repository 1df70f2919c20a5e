"""``edgelm.compare``: prompts, configurations, seeds and models side by side."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

from edgelm.bundle.progress import NoProgress, Progress
from edgelm.comparison.cells import naming, run_plan
from edgelm.comparison.plan import Plan, configurations, inputs_of, prompt_cases, seeds_of
from edgelm.comparison.results import Asked, Comparison, Row
from edgelm.errors import ConfigError
from edgelm.language_model import LanguageModel, load

Model = str | os.PathLike[str] | LanguageModel


@dataclass(frozen=True, slots=True)
class Opener:
    """A model to be compared on.

    Attributes:
        name: what rows call it.
        open: loads it; it is closed before the next one is loaded.
        system: its own system prompt, where the plan has none.
    """

    name: str
    open: Callable[[], AbstractContextManager[LanguageModel]]
    system: str | None = None


def compare(
    models: Model | Sequence[Model],
    prompts: Any,
    *,
    inputs: Any = None,
    grid: Mapping[str, Sequence[Any]] | None = None,
    configs: Sequence[Mapping[str, Any]] = (),
    seeds: int | Sequence[int] | None = None,
    system: str | None = None,
    raw: bool = False,
    load_settings: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
    **settings: Any,
) -> Comparison:
    """Answers every prompt on every input with every configuration and seed, by one model after another.

    Args:
        models: names or folders, each loaded in its turn, or loaded models, which stay open.
        prompts: texts, templates, or mappings (``prompt_cases``), one or several.
        inputs: what the prompts are tried on (``inputs_of``), with references if there are any; None: the prompts
            stand for themselves. A prompt without a variable has the input put before it.
        grid: setting → values; every combination is a configuration.
        configs: further configurations: mappings of settings, with a ``name`` if you like.
        seeds: how many, or which; greedy configurations are run once.
        system: a system prompt; None or empty: none.
        raw: leave the chat template out.
        load_settings: arguments of ``edgelm.load``.
        progress: told of each answer.
        settings: fields of ``GenerationConfig``, for all configurations.

    Raises:
        ConfigError, PromptError, TemplateError: the plan is refused, before any model is loaded where it can be.
        EdgeLMError: as ``load`` and ``LanguageModel.generate``; names the cell.
    """
    plan = Plan(
        prompts=prompt_cases(prompts),
        inputs=inputs_of(inputs),
        configurations=configurations(grid, configs, settings),
        seeds=seeds_of(seeds),
        system=system,
        raw=raw,
    )
    several = [models] if isinstance(models, (str, os.PathLike, LanguageModel)) else list(models)
    openers = [_opener(model, load_settings or {}) for model in several]
    return compare_on(openers, plan, progress or NoProgress())


def compare_on(openers: Iterable[Opener], plan: Plan, progress: Progress) -> Comparison:
    """Runs a plan on models that are opened one by one.

    Raises:
        ConfigError: there is none.
        EdgeLMError: see ``compare``.
    """
    # A prompt that cannot be filled is refused before a model is loaded.
    asked: list[Asked] = []
    for case in plan.prompts:
        for number, given in enumerate(plan.inputs, start=1):
            with naming(f"prompt {case.name}, input {number}"):
                asked.append(Asked(case.name, number, case.fill(given).text(), given.references))
    rows: list[Row] = []
    for model in openers:
        own = model.system if plan.system is None and not plan.raw else plan.system or None
        with model.open() as lm:
            rows += run_plan(replace(plan, system=own), lm, model.name, progress)
    if not rows:
        raise ConfigError("there is no model to compare on")
    return Comparison(tuple(rows), tuple(asked))


def _opener(model: Model, settings: Mapping[str, Any]) -> Opener:
    if isinstance(model, LanguageModel):
        return Opener(model.name, lambda: nullcontext(model))
    return Opener(str(model), lambda: load(model, **settings))
