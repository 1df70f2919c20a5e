"""The options that hold an answer to a form: JSON of a schema, an expression, a grammar, a choice."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from edgelm.cli.options import Decorator, option, with_options
from edgelm.cli.prompt_input import read_file
from edgelm.errors import ConfigError

_FORM = "Form of the answer (pip install 'edgelm[guided]')"
_MOST_BYTES = 4_000_000
_NAMES = ("json_schema", "regex", "grammar", "choices")


def form_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Adds the flags; what they ask for is checked, and then is among the settings in ``generation``."""

    @functools.wraps(function)
    def collected(*, generation: dict[str, Any], **values: Any) -> Any:
        given = {name: values.pop(name) for name in _NAMES}
        form = {name: value for name, value in given.items() if value not in (None, ())}
        if form:
            _check(form)
        return function(generation={**generation, **form}, **values)

    return with_options(collected, _OPTIONS)


def _check(form: dict[str, Any]) -> None:
    from edgelm.text.answer_form import split_form
    from edgelm.text.grammar import check_form

    asked, _ = split_form(form)
    if asked is not None:
        check_form(asked)


def _schema(context: click.Context, parameter: click.Parameter, value: str | None) -> str | None:
    """JSON as it is, or from a file."""
    if value is None or value.lstrip().startswith("{"):
        return value
    if not value.strip():
        raise ConfigError("--json-schema is empty; give a file or JSON, such as {} for any object")
    return read_file(value, _MOST_BYTES)


def _grammar(context: click.Context, parameter: click.Parameter, value: str | None) -> str | None:
    """A file where there is one; a grammar has rules, and so a colon."""
    if value is None:
        return None
    try:
        is_file = Path(value).is_file()
    except (OSError, ValueError):  # as long as no name of a file, or with a NUL
        is_file = False
    if is_file:
        return read_file(value, _MOST_BYTES)
    if ":" not in value:
        raise ConfigError(
            f"--grammar: {value!r:.80} is no file, and no grammar, which has rules such as 'start: NUMBER'"
        )
    return value


_OPTIONS: tuple[Decorator, ...] = (
    option(
        _FORM,
        "--json-schema",
        metavar="FILE|JSON",
        callback=_schema,
        help="JSON of this schema; {}: any object. Objects have no properties but those named, unless "
        "additionalProperties says so. One space stands behind commas and colons, and no white space elsewhere.",
    ),
    option(
        _FORM,
        "--regex",
        metavar="PATTERN",
        help="A text that this regular expression matches as a whole (Rust's syntax: no look-around).",
    ),
    option(
        _FORM,
        "--grammar",
        metavar="FILE|TEXT",
        callback=_grammar,
        help="A text of this grammar in Lark's syntax, such as 'start: \"a\" NUMBER'.",
    ),
    option(_FORM, "--choice", "choices", multiple=True, metavar="TEXT", help="One of these texts; give several."),
)
