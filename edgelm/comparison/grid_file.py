"""A comparison in a TOML file: models, prompts, inputs, settings, a grid of them, and seeds."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgelm.comparison.plan import Configuration, Plan, configurations, inputs_of, prompt_cases, seeds_of
from edgelm.errors import ConfigError

MAX_FILE_BYTES = 4_000_000


@dataclass(frozen=True, slots=True)
class GridFile:
    """What a file asks for."""

    models: tuple[str, ...]
    plan: Plan


def read_grid(
    path: Path,
    overrides: Mapping[str, Any],
    complete: Callable[[tuple[Configuration, ...]], tuple[Configuration, ...]] = lambda chosen: chosen,
) -> GridFile:
    """Reads a file; its paths are relative to its folder.

    Args:
        path: the file.
        overrides: settings that hold over those of ``[settings]``.
        complete: what is done to the configurations.

    Raises:
        ConfigError: it cannot be read, is not TOML, or a field is unknown or of another kind; names file and field.
        PromptError, TemplateError: see ``prompt_cases``.
    """
    fields = _fields(path)
    for name, value in fields.items():
        if not isinstance(value, _KINDS[name]):
            raise ConfigError(f"{path}: {name!r} must be {_WORDS[name]}, not {value!r:.80}")
    if not fields.get("models") or not all(isinstance(model, str) for model in fields["models"]):
        raise ConfigError(f"{path}: 'models' must be a list of names or folders")
    if "prompts" not in fields:
        raise ConfigError(f"{path}: 'prompts' is missing")
    given = fields.get("inputs")
    settings = {**fields.get("settings", {}), **overrides}
    try:
        plan = Plan(
            prompts=prompt_cases(fields["prompts"], path.parent),
            inputs=inputs_of(Path(given) if isinstance(given, str) else given, path.parent),
            configurations=complete(configurations(fields.get("grid"), fields.get("configurations", ()), settings)),
            seeds=seeds_of(fields.get("seeds")),
            system=fields.get("system"),
            raw=fields.get("raw", False),
        )
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error
    return GridFile(tuple(fields["models"]), plan)


def _fields(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror or error}") from error
    if len(data) > MAX_FILE_BYTES:
        raise ConfigError(f"{path} has more than the {MAX_FILE_BYTES} bytes that it may have")
    try:
        fields = tomllib.loads(data.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: not TOML: {error}") from error
    unknown = sorted(fields.keys() - _KINDS.keys())
    if unknown:
        raise ConfigError(f"{path}: unknown field {unknown[0]!r}; known are: {', '.join(_KINDS)}")
    return fields


_KINDS: dict[str, type | tuple[type, ...]] = {
    "models": list,
    "prompts": list,
    "inputs": (str, list),
    "settings": dict,
    "grid": dict,
    "configurations": list,
    "seeds": (int, list),
    "system": str,
    "raw": bool,
}
_WORDS = {
    "models": "a list of names or folders",
    "prompts": "a list of texts or tables",
    "inputs": "a file, or a list of texts or tables",
    "settings": "a table of settings",
    "grid": "a table of lists",
    "configurations": "a list of tables",
    "seeds": "how many, or a list",
    "system": "a text",
    "raw": "true or false",
}
