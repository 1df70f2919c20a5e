"""Prompt templates: a task put into words once, filled with a text, variables and any number of examples.

A model with a chat template gets examples as turns of a conversation, another one as a text that goes on in the same
form. Zero-shot, one-shot and few-shot differ in ``k`` alone.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

from edgelm.errors import ConfigError, PromptError, TemplateError
from edgelm.text.records import Record, read_records
from edgelm.text.template_file import parse_template, template_source
from edgelm.text.template_text import TemplateText

# The text that the template is for may be called either.
TEXT_NAMES = ("text", "input")
_RESERVED = ("examples", "k", "output")

Examples = str | os.PathLike[str] | Sequence[Mapping[str, Any]]
"""A file (JSONL, CSV, TSV), or mappings: the template's variables, the text as ``text`` or ``input``, ``output``."""


@dataclass(frozen=True, slots=True)
class FilledPrompt:
    """A template with everything filled in.

    Attributes:
        system: of a chat; None: none.
        instruction: said once, before the first example or the input.
        examples: (input, output) of each.
        input, blank_input: with the text, and with an empty one in its place.
        cue: what stands before an output in a text, such as ``Summary:``.
        stop: where an answer that goes on as a text would begin the next example.
    """

    system: str | None
    instruction: str
    examples: tuple[tuple[str, str], ...]
    input: str
    blank_input: str
    cue: str
    stop: tuple[str, ...]

    def messages(self) -> list[dict[str, str]]:
        """A conversation in which the examples were answered before."""
        messages = [] if self.system is None else [{"role": "system", "content": self.system}]
        inputs = [*(asked for asked, _ in self.examples), self.input]
        inputs[0] = _blocks(self.instruction, inputs[0])
        for asked, (_, answered) in zip(inputs, self.examples, strict=False):
            messages += [{"role": "user", "content": asked}, {"role": "assistant", "content": answered}]
        return [*messages, {"role": "user", "content": inputs[-1]}]

    def text(self) -> str:
        """A text that a model goes on with, for those that were not trained for conversations."""
        answered = (_lines(asked, f"{self.cue} {output}".lstrip()) for asked, output in self.examples)
        return _blocks(self.system or "", self.instruction, *answered, _lines(self.input, self.cue))


@dataclass(frozen=True)
class PromptTemplate:
    """A template; ``load`` reads one. Texts are Jinja, run in a sandbox.

    Attributes:
        name, description: for people.
        input: what is asked for one text.
        instruction: what is said once before.
        system: the system prompt of a chat.
        output: what stands before an output where the prompt is a text.
        stop: texts at which an answer to such a prompt ends.
        defaults: values of variables that need not be given.

    Raises:
        TemplateError: a text is not valid, or uses a reserved name.
    """

    name: str
    input: str
    instruction: str = ""
    system: str | None = None
    output: str = ""
    stop: tuple[str, ...] = ()
    description: str = ""
    defaults: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        reserved = sorted(set(self.variables).intersection(_RESERVED))
        if reserved:
            raise TemplateError(f"the template {self.name!r} uses {reserved[0]!r}, which is no variable of templates")

    @classmethod
    def load(cls, template: str | os.PathLike[str]) -> Self:
        """One of this package by its name, or a file: TOML with the fields above, or a plain text with variables.

        Raises:
            TemplateError: there is none, or it is not valid.
        """
        name, text, is_toml = template_source(template)
        if not is_toml:
            return cls(name=name, input=text)
        fields = parse_template(text, name)
        return cls(name=name, **{**fields, "stop": tuple(fields.get("stop", ()))})

    @property
    def variables(self) -> tuple[str, ...]:
        """Names of all variables, in alphabetical order."""
        return tuple(sorted(set().union(*(text.variables for text in self._texts.values()))))

    @property
    def takes_text(self) -> bool:
        """Whether it uses a text, under one of ``TEXT_NAMES``."""
        return any(name in self.variables for name in TEXT_NAMES)

    def render(self, *, examples: Examples = (), k: int | None = None, **variables: Any) -> list[dict[str, str]]:
        """The messages of a chat; for the arguments and errors see ``fill``."""
        return self.fill(variables, examples=examples, k=k).messages()

    def render_text(self, *, examples: Examples = (), k: int | None = None, **variables: Any) -> str:
        """A text to go on with, for models without a chat template; see ``fill``."""
        return self.fill(variables, examples=examples, k=k).text()

    def fill(self, variables: Mapping[str, Any], *, examples: Examples = (), k: int | None = None) -> FilledPrompt:
        """Fills variables in; examples may have values of their own.

        Args:
            variables: name → value.
            examples: where the first ``k`` are taken from.
            k: how many; None: all.

        Raises:
            ConfigError: a variable is unknown, or there are fewer than ``k`` examples.
            PromptError: an example has no output, or their file cannot be read.
            TemplateError: a variable is missing, or a text fails.
        """
        values = dict(self.defaults or {}) | self._known(variables)
        chosen = [self._example(record, values) for record in _chosen(examples, k)]
        asked = self._texts["input"]
        system = None if self.system is None else self._texts["system"].render(values)
        return FilledPrompt(
            system=system,
            instruction=self._texts["instruction"].render(values),
            examples=tuple(chosen),
            input=asked.render(values),
            blank_input=asked.render(values | dict.fromkeys(TEXT_NAMES, "")),
            cue=self._texts["output"].render(values),
            stop=self.stop,
        )

    def _known(self, variables: Mapping[str, Any]) -> dict[str, Any]:
        unknown = sorted(variables.keys() - {*self.variables, *(TEXT_NAMES if self.takes_text else ())})
        if unknown:
            raise ConfigError(
                f"the template {self.name!r} has no variable {unknown[0]!r:.80}; it has: {', '.join(self.variables)}"
            )
        return _with_both_names(variables)

    def _example(self, record: Record, values: Mapping[str, Any]) -> tuple[str, str]:
        output = record.fields.get("output")
        if not isinstance(output, (str, int, float)) or isinstance(output, bool):
            raise PromptError(f"{record.where}: an example needs an 'output', a text, not {output!r:.80}")
        # The input's text must not stand in for an example's that is missing.
        others = {name: value for name, value in values.items() if name not in TEXT_NAMES}
        try:
            return self._texts["input"].render(others | _with_both_names(record.fields)), str(output)
        except TemplateError as error:
            raise TemplateError(f"{record.where}: {error}") from error

    @cached_property
    def _texts(self) -> dict[str, TemplateText]:
        sources = {name: (getattr(self, name) or "").strip() for name in ("system", "instruction", "input", "output")}
        return {name: TemplateText(source, name=self.name) for name, source in sources.items()}


def _with_both_names(fields: Mapping[str, Any]) -> dict[str, Any]:
    given = [name for name in TEXT_NAMES if name in fields]
    return {**dict.fromkeys(TEXT_NAMES, fields[given[0]]), **fields} if given else dict(fields)


def _chosen(examples: Examples, k: int | None) -> Sequence[Record]:
    if isinstance(examples, (str, os.PathLike)):
        records: Sequence[Record] = read_records(examples)
    else:
        records = [Record(f"examples[{index}]", fields) for index, fields in enumerate(examples)]
    if k is None:
        return records
    if isinstance(k, bool) or not isinstance(k, int) or not 0 <= k <= len(records):
        raise ConfigError(f"k must be from 0 to {len(records)}, as many examples as there are, not {k!r:.80}")
    return records[:k]


def _blocks(*parts: str) -> str:
    return "\n\n".join(part for part in parts if part)


def _lines(*parts: str) -> str:
    return "\n".join(part for part in parts if part)
