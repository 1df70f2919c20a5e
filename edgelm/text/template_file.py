"""Where prompt templates come from: those in this package, and files of one's own."""

from __future__ import annotations

import difflib
import importlib.resources
import os
import tomllib
from pathlib import Path
from typing import Any

from edgelm.errors import TemplateError
from edgelm.text.utf8 import decode_utf8

MAX_FILE_BYTES = 256 << 10
_FOLDER = importlib.resources.files("edgelm.text").joinpath("templates")
_SUFFIX = ".toml"


def built_in_names() -> list[str]:
    """The names of the templates in this package, in alphabetical order."""
    names = (file.name for file in _FOLDER.iterdir())
    return sorted(name.removesuffix(_SUFFIX) for name in names if name.endswith(_SUFFIX))


def template_source(template: str | os.PathLike[str]) -> tuple[str, str, bool]:
    """A template's name, its file's text, and whether that is TOML; else it is a plain text, with variables.

    Raises:
        TemplateError: there is no such template, or its file cannot be read; names the near ones.
    """
    known = built_in_names()
    if isinstance(template, str) and template in known:
        return template, _FOLDER.joinpath(template + _SUFFIX).read_text(encoding="utf-8"), True
    path = Path(template)
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except FileNotFoundError:
        raise _unknown(str(template), known) from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise TemplateError(f"{template}: {getattr(error, 'strerror', None) or error}") from error
    if len(data) > MAX_FILE_BYTES:
        raise TemplateError(f"{template} has more than the {MAX_FILE_BYTES} bytes that a template may have")
    return path.name, decode_utf8(data, str(template)).removeprefix("\ufeff"), path.suffix.lower() == _SUFFIX


def parse_template(text: str, name: str) -> dict[str, Any]:
    """The fields of a template in TOML, checked.

    Raises:
        TemplateError: it is not TOML, or a field is unknown, missing or of another kind.
    """
    try:
        fields = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise TemplateError(f"the template {name!r}: not TOML: {error}") from error
    unknown = sorted(fields.keys() - _KINDS.keys())
    if unknown:
        raise TemplateError(f"the template {name!r}: unknown field {unknown[0]!r}; known are: {', '.join(_KINDS)}")
    if "input" not in fields:
        raise TemplateError(f"the template {name!r}: 'input' is missing")
    for field, value in fields.items():
        if not isinstance(value, _KINDS[field]):
            raise TemplateError(f"the template {name!r}: {field!r} must be a {_WORDS[_KINDS[field]]}")
    if not all(isinstance(stop, str) and stop for stop in fields.get("stop", ())):
        raise TemplateError(f"the template {name!r}: 'stop' must be a list of texts")
    return fields


_KINDS: dict[str, type] = {
    "description": str,
    "system": str,
    "instruction": str,
    "input": str,
    "output": str,
    "stop": list,
    "defaults": dict,
}
_WORDS: dict[type, str] = {str: "text", list: "list of texts", dict: "table of variables"}


def _unknown(name: str, known: list[str]) -> TemplateError:
    near = difflib.get_close_matches(name, known, n=2)
    hint = f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(known)}, or give a file"
    return TemplateError(f"there is no template {name!r:.120}; {hint}")
