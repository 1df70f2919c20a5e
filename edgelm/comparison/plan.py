"""What is to be compared: prompts, inputs, configurations and seeds, all checked before a model is loaded."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgelm.checks import check_int
from edgelm.config import GenerationConfig
from edgelm.config_values import near_or_all
from edgelm.errors import ConfigError, PromptError
from edgelm.text.answer_form import split_form
from edgelm.text.prompt_template import TEXT_NAMES, FilledPrompt, PromptTemplate
from edgelm.text.records import Record, read_records

MOST_CELLS = 10_000
MOST_SEEDS = 1_000
_NAME_LENGTH = 40
_PROMPT_FIELDS = ("name", "text", "template", "vars", "examples", "k")


@dataclass(frozen=True, slots=True)
class Input:
    """What prompts are tried on.

    Attributes:
        fields: ``text``, and other variables of templates; none where the prompts stand for themselves.
        references: what good answers would be.
    """

    fields: Mapping[str, Any] = field(default_factory=dict)
    references: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class PromptCase:
    """One of the prompts: a text as it is, or a template with its variables and first ``k`` examples (None: all)."""

    name: str
    prompt: str | PromptTemplate
    variables: Mapping[str, Any] = field(default_factory=dict)
    examples: Sequence[Mapping[str, Any]] = ()
    k: int | None = None

    def fill(self, given: Input) -> FilledPrompt:
        """The prompt for an input, which stands before a text that has no variable for it, as in ``edgelm run``.

        Raises:
            ConfigError, PromptError, TemplateError: see ``PromptTemplate.fill``.
        """
        template = self.prompt
        if isinstance(template, str):
            if not given.fields or not ("{{" in template or "{%" in template):
                context = str(given.fields.get("text", ""))
                text = f"{context}\n\n{template}" if context.strip() else template
                return FilledPrompt(None, "", (), text, "", "", ())
            template = PromptTemplate(name=self.name, input=template)
        if "text" in given.fields and not template.takes_text:
            raise ConfigError(f"the prompt {self.name!r:.80} has no variable 'text' for the input")
        known = {*template.variables, *(TEXT_NAMES if template.takes_text else ())}
        own = {name: value for name, value in given.fields.items() if name in known}
        return template.fill({**own, **self.variables}, examples=self.examples, k=self.k)


@dataclass(frozen=True, slots=True)
class Configuration:
    """Settings of a generation, or a form of the answer such as ``choices``, and what to call them."""

    name: str
    settings: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A comparison on one model after another.

    Raises:
        ConfigError: a setting is unknown, names are not unique, or there are too many cells.
    """

    prompts: tuple[PromptCase, ...]
    inputs: tuple[Input, ...] = (Input(),)
    configurations: tuple[Configuration, ...] = (Configuration("default", {}),)
    seeds: tuple[int | None, ...] = (None,)
    system: str | None = None
    raw: bool = False

    def __post_init__(self) -> None:
        if not self.prompts or not self.inputs:
            raise ConfigError(f"there is no {'input' if self.prompts else 'prompt'} to compare")
        for what, names in (
            ("prompts", [case.name for case in self.prompts]),
            ("configurations", [one.name for one in self.configurations]),
        ):
            twice = sorted({name for name in names if names.count(name) > 1})
            if twice:
                raise ConfigError(f"two {what} are called {twice[0]!r:.80}")
        for one in self.configurations:
            unknown = sorted(split_form(one.settings)[1].keys() - set(GenerationConfig.field_names()))
            if unknown:
                hint = near_or_all(unknown[0], GenerationConfig.field_names())
                raise ConfigError(f"unknown generation setting {unknown[0]!r:.80}; {hint}")
        if self.cells > MOST_CELLS:
            raise ConfigError(f"a comparison has at most {MOST_CELLS} answers a model, not {self.cells}")
        if self.raw and self.system is not None:
            raise ConfigError("a system prompt is for the chat template, which raw leaves out")

    @property
    def cells(self) -> int:
        """Answers of each model, at most."""
        return len(self.prompts) * len(self.inputs) * len(self.configurations) * len(self.seeds)


def prompt_cases(prompts: object, folder: Path | None = None) -> tuple[PromptCase, ...]:
    """Prompts as callers and files give them: a text, a template, or a mapping, alone or in a list.

    A mapping has ``text``, or ``template`` (a name or a file) with ``vars``, ``examples`` and ``k``, a number or a list
    of numbers that makes one prompt each; ``name`` is what it is called. Paths are relative to ``folder``.

    Raises:
        ConfigError: one is none of these.
        TemplateError, PromptError: a template or a file of examples is refused.
    """
    several = prompts if isinstance(prompts, Sequence) and not isinstance(prompts, str) else [prompts]
    cases = [case for index, one in enumerate(several) for case in _cases(one, f"prompts[{index}]", folder)]
    return tuple(_distinctly_named(cases))


def _cases(given: object, where: str, folder: Path | None) -> Iterable[PromptCase]:
    if isinstance(given, str):
        return [PromptCase(_short(given), given)]
    if isinstance(given, PromptTemplate):
        return [PromptCase(given.name, given)]
    if not isinstance(given, Mapping):
        raise ConfigError(f"{where} must be a text, a template, or a mapping, not {given!r:.80}")
    unknown = sorted(given.keys() - set(_PROMPT_FIELDS))
    if unknown:
        raise ConfigError(f"{where}: unknown field {unknown[0]!r}; known are: {', '.join(_PROMPT_FIELDS)}")
    if ("text" in given) == ("template" in given):
        raise ConfigError(f"{where} needs either 'text' or 'template'")
    name = given.get("name")
    if name is not None and (not isinstance(name, str) or not name.strip()):
        raise ConfigError(f"{where}: 'name' must be a text, not {name!r:.80}")
    if "text" in given:
        if len(given.keys() - {"name", "text"}) or not isinstance(given["text"], str):
            raise ConfigError(f"{where}: 'text' is a text, and goes with no field but 'name'")
        return [PromptCase(name or _short(given["text"]), given["text"])]
    return _template_cases(given, name, where, folder)


def _template_cases(
    given: Mapping[str, Any], name: str | None, where: str, folder: Path | None
) -> Iterable[PromptCase]:
    template = given["template"]
    if not isinstance(template, PromptTemplate):
        if not isinstance(template, (str, os.PathLike)):
            raise ConfigError(f"{where}: 'template' must be a name or a file, not {template!r:.80}")
        template = PromptTemplate.load(_near(template, folder))
    variables = given.get("vars", {})
    if not isinstance(variables, Mapping):
        raise ConfigError(f"{where}: 'vars' must be variables with their values, not {variables!r:.80}")
    examples = given.get("examples", ())
    if isinstance(examples, (str, os.PathLike)):
        examples = [record.fields for record in read_records(_in(examples, folder))]
    shots = given.get("k")
    several: list[Any] = list(shots) if isinstance(shots, Sequence) and not isinstance(shots, str) else [shots]
    for k in several:
        shown = template.name if k is None else f"{template.name} k={k}"
        if name is not None:
            shown = name if len(several) == 1 else f"{name} k={k}"
        yield PromptCase(shown, template, dict(variables), tuple(examples), k)


def configurations(
    grid: Mapping[str, Any] | None = None,
    named: Sequence[Mapping[str, Any]] = (),
    settings: Mapping[str, Any] | None = None,
) -> tuple[Configuration, ...]:
    """Every combination of the grid's values, then the named ones; ``settings`` hold where neither says otherwise.

    Raises:
        ConfigError: the grid is none, or a named configuration is no mapping.
    """
    common = dict(settings or {})
    chosen: list[Configuration] = []
    for combination in _combinations(grid or {}):
        label = ", ".join(f"{name}={_shown(value)}" for name, value in combination.items())
        chosen.append(Configuration(label, common | combination))
    for index, one in enumerate(named):
        if not isinstance(one, Mapping) or not isinstance(one.get("name", ""), str):
            raise ConfigError(f"configurations[{index}] must be settings, with a text as their 'name', not {one!r:.80}")
        own = {name: value for name, value in one.items() if name != "name"}
        label = ", ".join(f"{name}={_shown(value)}" for name, value in own.items())
        chosen.append(Configuration(one.get("name") or label or "default", common | own))
    return tuple(chosen) or (Configuration("default", common),)


def _combinations(grid: Mapping[str, Any]) -> Iterable[dict[str, Any]]:
    for name, values in grid.items():
        if not isinstance(values, Sequence) or isinstance(values, str) or not values:
            raise ConfigError(f"the grid needs a list of values for {name}, not {values!r:.80}")
    if not grid:
        return []
    return [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]


def seeds_of(given: object) -> tuple[int | None, ...]:
    """Seeds: a number of them, counted from 1, or the seeds themselves; None: as the settings say.

    Raises:
        ConfigError: it is none of these.
    """
    if given is None:
        return (None,)
    if isinstance(given, int):
        check_int("seeds", given, 1, MOST_SEEDS)
        return tuple(range(1, given + 1))
    if not isinstance(given, Sequence) or isinstance(given, str) or not given:
        raise ConfigError(f"seeds must be how many, or a list of seeds, not {given!r:.80}")
    for seed in given:
        check_int("a seed", seed, 0)
    return tuple(dict.fromkeys(given))


def inputs_of(given: object, folder: Path | None = None) -> tuple[Input, ...]:
    """Inputs: a text, mappings with ``text`` and ``reference`` (or ``output``), a list of these, or a path to records.

    Raises:
        ConfigError, PromptError: it is none of these, or the file is refused.
    """
    if given is None:
        return (Input(),)
    if isinstance(given, os.PathLike):
        records: Iterable[Record] = read_records(_in(given, folder))
    else:
        several: Sequence[Any] = given if isinstance(given, Sequence) and not isinstance(given, str) else [given]
        texts = ({"text": one} if isinstance(one, str) else one for one in several)
        records = [Record(f"inputs[{index}]", one) for index, one in enumerate(texts)]
    return tuple(_input(record) for record in records)


def _input(record: Record) -> Input:
    if not isinstance(record.fields, Mapping):
        raise ConfigError(f"{record.where} must be a text or a mapping, not {record.fields!r:.80}")
    fields = {name: value for name, value in record.fields.items() if name not in ("reference", "output")}
    if "input" in fields:
        fields.setdefault("text", fields.pop("input"))
    wanted = record.fields.get("reference", record.fields.get("output", ()))
    references = tuple(wanted) if isinstance(wanted, Sequence) and not isinstance(wanted, str) else (wanted,)
    if not all(isinstance(reference, str) for reference in references):
        raise PromptError(f"{record.where}: 'reference' must be a text, or a list of texts, not {wanted!r:.80}")
    if not fields and not references:
        raise PromptError(f"{record.where}: has no 'text'")
    return Input(fields, references)


def _distinctly_named(cases: Sequence[PromptCase]) -> Iterable[PromptCase]:
    """Texts that begin alike are told apart by a number."""
    seen: dict[str, int] = {}
    for case in cases:
        seen[case.name] = seen.get(case.name, 0) + 1
        if seen[case.name] > 1 and isinstance(case.prompt, str):
            case = PromptCase(f"{case.name} ({seen[case.name]})", case.prompt)
        yield case


def _short(text: str) -> str:
    line = " ".join(text.split()) or "(empty)"
    return line if len(line) <= _NAME_LENGTH else line[: _NAME_LENGTH - 1] + "…"


def _shown(value: object) -> str:
    return str(value) if isinstance(value, (str, int, float)) else json.dumps(value, ensure_ascii=False, default=str)


def _in(path: str | os.PathLike[str], folder: Path | None) -> Path:
    return Path(path) if folder is None else folder / path


def _near(template: str | os.PathLike[str], folder: Path | None) -> str | os.PathLike[str]:
    """A template's file beside the file that names it; else what the name stands for."""
    beside = _in(template, folder)
    return beside if folder is not None and beside.is_file() else template
