"""The options that several commands share, but for those of generation; their names are those of other runtimes.

A value out of range is a usage error with the words of ``RuntimeConfig``, which alone knows the ranges.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, ParamSpec

import click

from edgelm.bundle.manifest import QUANTIZATION_SCHEMES
from edgelm.cli.help_page import GENERAL, OWN, SectionOption
from edgelm.config import KV_CACHE_TYPES, KVCacheType, RuntimeConfig
from edgelm.errors import ConfigError
from edgelm.runtime.library_room import loading_libraries
from edgelm.sizes import parse_memory_limit

P = ParamSpec("P")
Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]

_MACHINE = "Machine"


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineOptions:
    """How a model shall be run here; see ``edgelm.load``. ``offline``: fetch nothing."""

    context_length: int | Literal["auto"] | None
    threads: int | None
    max_memory: int | None
    memory_check: bool
    kv_cache: KVCacheType | None
    prepack: bool
    variant: str | None
    offline: bool


def machine_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Adds the flags of ``MachineOptions``; the function gets them as ``machine``."""

    @functools.wraps(function)
    def collected(**values: Any) -> Any:
        names = MachineOptions.__dataclass_fields__
        machine = MachineOptions(**{name: values.pop(name) for name in names})
        with loading_libraries():
            return function(machine=machine, **values)

    return with_options(collected, _MACHINE_OPTIONS)


def draft_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """``--draft``, a model that guesses; the function gets its name."""
    text = "A smaller model with the same vocabulary that guesses what comes: faster where it is often right."
    return option(_MACHINE, "--draft", metavar="MODEL", help=text)(function)


def scheme_option(*, help: str, required: bool = False) -> Decorator:  # noqa: A002, click's name for it
    """``--scheme``, one of the quantization schemes."""
    return click.option("--scheme", type=click.Choice(QUANTIZATION_SCHEMES), required=required, help=help)


def max_memory_option(help: str) -> Decorator:  # noqa: A002, click's name for it
    """``--max-memory``, for commands that load no model."""
    return click.option("--max-memory", metavar="SIZE", callback=_size, help=help)


def json_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """``--json``."""
    return option(GENERAL, "--json", "as_json", is_flag=True, help="Print JSON instead of text.")(function)


def verbose_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """``--verbose``."""
    return option(GENERAL, "--verbose", is_flag=True, help="Say on stderr what the answer cost.")(function)


def file_option(what: str, *, section: str = OWN, each_line: bool = False, beside: str = "") -> Decorator:
    """``-f``/``--file``, which ``what`` is read from; ``each_line``: one a line; ``beside``: what else it may be."""
    form = (", one a line" if each_line else "") + (f", {beside}" if beside else "")
    return option(section, "-f", "--file", metavar="FILE", help=f"Read the {what} from a file{form}; - is stdin.")


def truncate_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """``--truncate``."""
    told = "Cut texts that are longer than the model takes; else refuse them."
    return option(OWN, "--truncate", is_flag=True, help=told)(function)


def with_options(function: Callable[..., Any], options: tuple[Decorator, ...]) -> Callable[..., Any]:
    """The function with all of them, which help shows in this order."""
    for add in reversed(options):
        function = add(function)
    return function


def option(section: str, *declarations: str, **settings: Any) -> Decorator:
    """One option, in a section of the help page."""
    return click.option(*declarations, cls=SectionOption, section=section, **settings)


def _checked_machine(context: click.Context, parameter: click.Parameter, value: Any) -> Any:
    refuse_out_of_range(RuntimeConfig, {str(parameter.name): value})
    return value


def _context_size(context: click.Context, parameter: click.Parameter, value: str | None) -> int | str | None:
    """A whole number, or ``auto``."""
    size: int | str | None = None if value is None else value.strip().lower()
    try:
        size = size if size is None or size == "auto" else int(size)
    except ValueError:
        raise click.BadParameter(f"{value!r:.80} is neither a whole number nor auto") from None
    refuse_out_of_range(RuntimeConfig, {str(parameter.name): size})
    return size


def refuse_out_of_range(config: Callable[..., object], settings: dict[str, Any]) -> None:
    """A usage error in the words of ``config``, which refuses the settings."""
    try:
        config(**settings)
    except ConfigError as error:
        raise click.BadParameter(str(error)) from None


def _size(context: click.Context, parameter: click.Parameter, value: str | None) -> int | None:
    try:
        return None if value is None else parse_memory_limit(value)
    except ConfigError as error:
        raise click.BadParameter(str(error)) from None


_MACHINE_OPTIONS = (
    option(
        _MACHINE,
        "-c",
        "--ctx-size",
        "context_length",
        metavar="N|auto",
        callback=_context_size,
        help="Tokens of prompt and answer together; of an encoder's text; of an encoder-decoder's answer: so many, for "
        "which there must be memory, or auto: as many as there is memory for. Default: the model's limit.",
    ),
    option(
        _MACHINE,
        "-t",
        "--threads",
        type=int,
        metavar="N",
        callback=_checked_machine,
        help="Threads; default: one a core.",
    ),
    option(
        _MACHINE,
        "--max-memory",
        metavar="SIZE",
        callback=_size,
        help="Use no more, such as 400MB: settings that are not given are changed to fit, or the model is refused.",
    ),
    option(
        _MACHINE,
        "--memory-check/--no-memory-check",
        default=True,
        help="Refuse what the machine has no memory for.",
    ),
    option(
        _MACHINE,
        "--kv-cache",
        type=click.Choice(KV_CACHE_TYPES),
        help="What a decoder keeps keys and values as: int8 takes a quarter of the memory, and rounds.  [f32]",
    ),
    option(_MACHINE, "--prepack/--no-prepack", default=True, help="Keep the weights in this processor's layout."),
    option(
        _MACHINE,
        "--variant",
        metavar="NAME",
        help="Of a folder that another tool made: which form of its graphs, such as q4.  [the best here]",
    ),
    option(_MACHINE, "--offline", is_flag=True, help="Fetch nothing from the network."),
)
