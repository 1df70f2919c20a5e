"""The options of prompt templates, and the prompt that they make of what the command was given."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from edgelm.cli.options import Decorator, option, with_options
from edgelm.cli.prompt_input import checked_text, read_prompt_in_context

if TYPE_CHECKING:
    from edgelm.text.prompt_template import FilledPrompt, PromptTemplate

_SECTION = "Template"


@dataclass(frozen=True, slots=True, kw_only=True)
class TemplateOptions:
    """A template by name or file, its variables, and its examples: a file, and how many of them."""

    template: str | None
    variables: dict[str, str]
    examples: str | None
    shots: int | None

    def loaded(self) -> PromptTemplate | None:
        """The template; None where none was asked for.

        Raises:
            click.UsageError: what belongs to a template was given without one.
            TemplateError: there is none of that name, or it is not valid.
        """
        if self.template is None:
            for flag, given in (("--var", self.variables), ("--examples", self.examples), ("-k", self.shots)):
                if given not in (None, {}):
                    raise click.UsageError(f"{flag} is for a template; name one with --template (edgelm templates)")
            return None
        from edgelm.text.prompt_template import PromptTemplate

        if self.shots and self.examples is None:
            raise click.UsageError(f"-k {self.shots} takes examples from a file; name it with --examples")
        return PromptTemplate.load(self.template)


def template_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Adds the flags of ``TemplateOptions``; the function gets them as ``templating``."""

    @functools.wraps(function)
    def collected(**values: Any) -> Any:
        names = TemplateOptions.__dataclass_fields__
        return function(templating=TemplateOptions(**{name: values.pop(name) for name in names}), **values)

    return with_options(collected, (*TEMPLATE_AND_EXAMPLES, _SHOTS))


def filled_prompt(
    templating: TemplateOptions, template: PromptTemplate, prompt: str | None, option: str | None, file: str | None
) -> FilledPrompt:
    """The template filled with what was given as the prompt, unless ``--var`` has the text already.

    Raises:
        click.UsageError: the text is missing, or there is one too many.
        ConfigError, PromptError, TemplateError: see ``PromptTemplate.fill`` and ``read_prompt``.
    """
    variables = dict(templating.variables)
    if template.takes_text and not variables.keys() & {"text", "input"}:
        variables["text"] = read_prompt_in_context(prompt, option, file)
        if not variables["text"].strip():
            raise click.UsageError(f"the prompt is empty, and {template.name} needs a text")
    elif (prompt, option, file) != (None, None, None):
        why = "--var gives the text already" if template.takes_text else f"{template.name} has no variable text"
        raise click.UsageError(f"the prompt has no place in the template: {why}")
    return template.fill(variables, examples=templating.examples or (), k=templating.shots)


def _variables(context: click.Context, parameter: click.Parameter, values: tuple[str, ...]) -> dict[str, str]:
    variables: dict[str, str] = {}
    for value in values:
        name, equals, text = value.partition("=")
        if not equals or not name.isidentifier():
            raise click.BadParameter(f"{value!r:.80} is not of the form NAME=VALUE, such as to=French")
        if name in variables:
            raise click.BadParameter(f"{name!r:.80} is given twice")
        variables[name] = checked_text(text, f"--var {name}")
    return variables


TEMPLATE_AND_EXAMPLES: tuple[Decorator, ...] = (
    option(
        _SECTION,
        "--template",
        metavar="NAME",
        help="Put the prompt into a template: one of `edgelm templates`, or a file.",
    ),
    option(
        _SECTION,
        "--var",
        "variables",
        multiple=True,
        metavar="NAME=VALUE",
        callback=_variables,
        help="A variable of the template; may be repeated.",
    ),
    option(
        _SECTION,
        "--examples",
        metavar="FILE",
        help="Answered examples: JSONL, CSV or TSV with the template's variables (the text: input) and output.",
    ),
)
_SHOTS = option(
    _SECTION,
    "-k",
    "--shots",
    "shots",
    type=click.IntRange(min=0),
    metavar="N",
    help="How many examples: 0 (zero-shot), 1, …; default: all of the file.",
)
