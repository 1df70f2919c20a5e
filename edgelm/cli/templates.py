"""``edgelm templates``: the prompt templates there are, and what one of them says."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from edgelm.cli import console
from edgelm.cli.help_page import PagedCommand, examples
from edgelm.cli.units import table

if TYPE_CHECKING:
    from edgelm.text.prompt_template import PromptTemplate

_EXAMPLES = """
edgelm templates
edgelm templates classification > mine.toml
edgelm run smollm2 --template mine.toml "The soup was cold."
"""


@click.command(cls=PagedCommand, epilog=examples(_EXAMPLES))
@click.argument("name", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text.")
def command(name: str | None, as_json: bool) -> None:
    """List prompt templates, or print one.

    NAME is a template or a file; what is printed can be changed and given to --template.
    """
    from edgelm.text.prompt_template import PromptTemplate
    from edgelm.text.template_file import built_in_names, template_source

    if name is not None and not as_json:
        PromptTemplate.load(name)
        console.answer(template_source(name)[1])
        return
    templates = [PromptTemplate.load(each) for each in ([name] if name is not None else built_in_names())]
    if as_json:
        console.answer_json({"templates": [_fields(template) for template in templates]})
        return
    rows = [(each.name, ", ".join(_shown(each, each.defaults or {})), each.description) for each in templates]
    console.answer(table(("template", "variables", "description"), rows) + "\n")


def _shown(template: PromptTemplate, defaults: Mapping[str, Any]) -> list[str]:
    """Variables, those that need not be given in brackets."""
    return [f"[{name}]" if name in defaults else name for name in template.variables]


def _fields(template: PromptTemplate) -> dict[str, Any]:
    return {
        "name": template.name,
        "description": template.description,
        "variables": list(template.variables),
        "defaults": dict(template.defaults or {}),
        "system": template.system,
        "instruction": template.instruction,
        "input": template.input,
        "output": template.output,
        "stop": list(template.stop),
    }
