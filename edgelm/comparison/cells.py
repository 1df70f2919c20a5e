"""Runs a plan on a loaded model, cell by cell, so that what prompts share is computed once.

Settings and seeds change fastest, then inputs: each answer begins where its prompt parts from the one before
(``SequencePool``), which is at its last token while only settings change.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgelm.bundle.progress import Progress
from edgelm.checks import warn_caller
from edgelm.comparison.measures import distinct, repetition
from edgelm.comparison.overlap import overlap
from edgelm.comparison.plan import Configuration, Input, Plan, PromptCase
from edgelm.comparison.results import Row
from edgelm.config import GenerationConfig
from edgelm.errors import EdgeLMError, UnsupportedModelError
from edgelm.language_model import LanguageModel
from edgelm.prompt_parts import encode_filled
from edgelm.results import GenerationResult
from edgelm.text.answer_form import split_form

Ids = NDArray[np.int64]
Logits = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class _Task:
    """One prompt on one input, ready to run."""

    case: PromptCase
    number: int
    given: Input
    prompt: str | list[int]
    stop: tuple[str, ...]


def run_plan(plan: Plan, lm: LanguageModel, name: str, progress: Progress) -> list[Row]:
    """The rows of one model; ``name`` is what they call it.

    Raises:
        EdgeLMError: as ``LanguageModel.generate``; names the cell. What can be known beforehand is refused before
            anything runs.
    """
    tasks = [_task(plan, lm, case, number, name) for case in plan.prompts for number in range(len(plan.inputs))]
    for one in plan.configurations:
        with naming(f"model {name}, configuration {one.name}"):
            _resolved(lm, one)
    if plan.seeds != (None,) and not any(_draws(lm, one) for one in plan.configurations):
        warn_caller(f"seeds given, but no configuration samples on {name}: ignored")
    progress.start(f"Comparing on {name}", len(tasks) * len(plan.configurations) * len(plan.seeds))
    rows: list[Row] = []
    for task in tasks:
        for one in plan.configurations:
            for seed in plan.seeds if _draws(lm, one) else (None,):
                cell = f"model {name}, prompt {task.case.name}, input {task.number}, configuration {one.name}"
                with naming(cell if seed is None else f"{cell}, seed {seed}"):
                    rows += _rows(lm, name, task, one, seed)
                progress.advance(1)
            if not _draws(lm, one):
                progress.advance(len(plan.seeds) - 1)
    progress.finish()
    return rows


def _task(plan: Plan, lm: LanguageModel, case: PromptCase, index: int, name: str) -> _Task:
    given = plan.inputs[index]
    with naming(f"model {name}, prompt {case.name}, input {index + 1}"):
        filled = case.fill(given)
        as_text = plan.raw or not lm.has_chat_template
        if plan.system is not None:
            if as_text:
                raise UnsupportedModelError(f"{lm.name} has no chat template, so it takes no system prompt")
            filled = replace(filled, system=plan.system)
        return _Task(case, index + 1, given, encode_filled(lm, filled, raw=plan.raw), filled.stop if as_text else ())


def _draws(lm: LanguageModel, one: Configuration) -> bool:
    return _resolved(lm, one).do_sample


def _resolved(lm: LanguageModel, one: Configuration) -> GenerationConfig:
    """The settings over the model's own; texts in biases are for the model to spell."""
    _, settings = split_form(one.settings)
    return lm.generation_config.updated(**{key: value for key, value in settings.items() if key != "logit_bias"})


def _rows(lm: LanguageModel, name: str, task: _Task, one: Configuration, seed: int | None) -> Iterator[Row]:
    settings = dict(one.settings)
    if seed is not None:
        settings["seed"] = seed
    if task.stop:
        settings.setdefault("stop_strings", task.stop)
    config = _resolved(lm, one)
    searches = config.num_beams > 1
    if not searches:
        settings["logprobs"] = True
    if config.num_return_sequences > 1:
        answers = lm.generate_batch([task.prompt], **settings)
    else:
        answers = [lm.generate(task.prompt, **settings)]
    for sample, answer in enumerate(answers, start=1):
        scored = _scored(lm, task.prompt, answer) if searches else answer
        yield _row(name, task, one, seed, sample, answer, _logprobs(scored))


def _scored(lm: LanguageModel, prompt: str | list[int], answer: GenerationResult) -> GenerationResult:
    """The answer of a search once more, token by token: searches keep no log probabilities."""
    tokens = answer.token_ids
    forced: dict[str, Any] = {
        "num_beams": 1,
        "num_return_sequences": 1,
        "do_sample": False,
        "min_new_tokens": 0,
        "max_new_tokens": len(tokens),
        "eos_token_id": (),
        "stop_strings": (),
        "logprobs": True,
        "logits_processor": [_forcing(tokens)],
    }
    return lm.generate(prompt, **forced)


def _forcing(tokens: Sequence[int]) -> Callable[[Ids, Logits], Logits]:
    """A logits processor that leaves one token after another."""
    following = iter(tokens)

    def force(ids: Ids, logits: Logits) -> Logits:
        forced = np.full_like(logits, -np.inf)
        forced[next(following)] = 0
        return forced

    return force


def _logprobs(answer: GenerationResult) -> list[float]:
    return [token.logprob for token in answer.logprobs or ()]


def _row(
    name: str,
    task: _Task,
    one: Configuration,
    seed: int | None,
    sample: int,
    answer: GenerationResult,
    logprobs: Sequence[float],
) -> Row:
    tokens = answer.token_ids
    total = sum(logprobs) if logprobs else None
    speed: Mapping[str, float | None] = answer.as_dict()["timings"]
    return Row(
        model=name,
        prompt=task.case.name,
        input=task.number,
        configuration=one.name,
        settings=one.settings,
        seed=seed,
        sample=sample,
        text=answer.text,
        finish_reason=answer.finish_reason,
        prompt_tokens=answer.usage.prompt_tokens,
        cached_tokens=answer.usage.cached_tokens,
        tokens=len(tokens),
        tokens_per_second=speed["decode_tps"],
        distinct_1=distinct(tokens, 1),
        distinct_2=distinct(tokens, 2),
        repetition=repetition(tokens),
        logprob=total,
        mean_logprob=None if total is None else total / len(logprobs),
        overlap=overlap(answer.text, task.given.references),
    )


@contextmanager
def naming(cell: str) -> Iterator[None]:
    """Says where in the comparison it was that something was refused."""
    try:
        yield
    except EdgeLMError as error:
        raise type(error)(f"{cell}: {error}") from error
