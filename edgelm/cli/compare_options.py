"""The options of ``edgelm compare`` that say what is compared, and where it is written."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from edgelm.cli.options import option, refuse_out_of_range, with_options
from edgelm.cli.output_file import OUTPUT_FILE
from edgelm.cli.template_options import TEMPLATE_AND_EXAMPLES
from edgelm.cli.typed_settings import setting_name, setting_value
from edgelm.config import GenerationConfig
from edgelm.errors import ConfigError

_WHAT = "What is compared"
_OUTPUT = "Output"


@dataclass(frozen=True, slots=True, kw_only=True)
class CompareOptions:
    """What is compared on which inputs, and the files to be written."""

    prompts: tuple[str, ...]
    system: str | None
    raw: bool
    input: str | None
    inputs: str | None
    reference: tuple[str, ...]
    grid: tuple[tuple[str, list[Any]], ...]
    seeds: int | list[int] | None
    template: str | None
    variables: dict[str, str]
    examples: str | None
    shots: list[int] | None
    html: Path | None
    csv: Path | None

    @property
    def plans(self) -> bool:
        """Whether anything was said that a TOML file would say."""
        said = (self.prompts, self.system, self.raw, self.input, self.inputs, self.reference, self.grid, self.seeds)
        templates = (self.template, self.variables, self.examples, self.shots)
        return any(value not in (None, (), {}, False) for value in (*said, *templates))


def compare_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Adds the flags of ``CompareOptions``; the function gets them as ``comparing``."""

    @functools.wraps(function)
    def collected(**values: Any) -> Any:
        names = CompareOptions.__dataclass_fields__
        return function(comparing=CompareOptions(**{name: values.pop(name) for name in names}), **values)

    return with_options(collected, (*_COMPARED, *TEMPLATE_AND_EXAMPLES, *_FILES))


def grid_settings(grid: tuple[tuple[str, list[Any]], ...]) -> Iterator[tuple[str, list[Any]]]:
    """The settings of ``--grid``, each once.

    Raises:
        click.UsageError: one is given twice.
    """
    seen: set[str] = set()
    for name, values in grid:
        if name in seen:
            raise click.UsageError(f"--grid {name} is given twice; name all its values in one")
        seen.add(name)
        yield name, values


def _grid(context: click.Context, parameter: click.Parameter, given: tuple[str, ...]) -> tuple[Any, ...]:
    return tuple(_varied(value) for value in given)


def _varied(given: str) -> tuple[str, list[Any]]:
    typed, equals, texts = given.partition("=")
    if not equals or not texts:
        raise click.BadParameter(f"{given!r:.80} is not of the form NAME=VALUE,VALUE, such as temperature=0.2,0.7")
    try:
        name = setting_name(typed)
        if isinstance(getattr(GenerationConfig(), name), tuple) or name == "exponential_decay_length_penalty":
            raise ConfigError(f"{name} takes lists; compare them in a TOML file")
        values = [setting_value(name, text.strip()) for text in texts.split(",")]
    except ConfigError as error:
        raise click.BadParameter(str(error)) from None
    if name in ("temperature", "top_k", "top_p", "min_p", "typical_p", "repetition_penalty"):
        for value in values:
            refuse_out_of_range(GenerationConfig, {name: value})
    return name, values


def _numbers(what: str, least: int) -> Callable[[click.Context, click.Parameter, str | None], list[int] | None]:
    def parse(context: click.Context, parameter: click.Parameter, given: str | None) -> list[int] | None:
        if given is None:
            return None
        parts = [part.strip() for part in given.split(",")]
        if not all(part.isdecimal() and len(part) < 20 and int(part) >= least for part in parts):
            raise click.BadParameter(f"{given!r:.80} is no list of {what} such as {least},{least + 2}")
        return [int(part) for part in parts]

    return parse


def _seeds(context: click.Context, parameter: click.Parameter, given: str | None) -> int | list[int] | None:
    """One number is how many; several are the seeds."""
    found = _numbers("seeds", 0)(context, parameter, given)
    if found == [0]:
        raise click.BadParameter("one number is how many seeds: at least 1")
    return found[0] if found is not None and len(found) == 1 else found


_COMPARED = (
    option(_WHAT, "-p", "--prompt", "prompts", multiple=True, metavar="TEXT", help="A prompt; may be repeated."),
    option(_WHAT, "--system", metavar="TEXT", help="A system prompt for all."),
    option(_WHAT, "--raw", is_flag=True, help="Continue the texts: no chat template."),
    option(
        _WHAT,
        "--input",
        metavar="TEXT",
        help="What the prompts are tried on: put in the place of {{ text }}, else before the prompt. May be piped in.",
    ),
    option(
        _WHAT,
        "-i",
        "--inputs",
        metavar="FILE",
        help="Several inputs: JSONL, CSV or TSV with text, other variables, and reference (or output).",
    ),
    option(
        _WHAT, "--reference", multiple=True, metavar="TEXT", help="A good answer, to compare with; may be repeated."
    ),
    option(
        _WHAT,
        "--grid",
        multiple=True,
        metavar="NAME=V,V",
        callback=_grid,
        help="Values of a setting, such as temperature=0.2,0.7; repeated: every combination.",
    ),
    option(_WHAT, "--seeds", metavar="N|S,S", callback=_seeds, help="How many seeds (from 1), or which, as 3,5."),
    option(
        "Template",
        "-k",
        "--shots",
        "shots",
        metavar="N,N",
        callback=_numbers("counts", 0),
        help="How many examples; several: a prompt each, such as 0,1,3.",
    ),
)
_FILES = (
    option(_OUTPUT, "--html", type=OUTPUT_FILE, help="Write a page, which needs nothing else."),
    option(_OUTPUT, "--csv", type=OUTPUT_FILE, help="Write a table with whole texts."),
)
