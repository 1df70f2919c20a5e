"""The options that several commands share; their names and disabled values are those of other runtimes.

A value out of range is a usage error with the words of ``GenerationConfig`` and ``RuntimeConfig``, which alone know
the ranges.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ParamSpec

import click

from edgelm.bundle.manifest import QUANTIZATION_SCHEMES
from edgelm.cli.help_page import GENERAL, OWN, SectionOption
from edgelm.config import GenerationConfig, RuntimeConfig, parse_size
from edgelm.errors import ConfigError

P = ParamSpec("P")
Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]

_ANSWER = "Answer"
_MACHINE = "Machine"


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineOptions:
    """How a model shall be run here; see ``edgelm.load``. ``offline``: fetch nothing."""

    context_length: int | None
    threads: int | None
    max_memory: int | None
    prepack: bool
    variant: str | None
    offline: bool


def generation_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Adds the flags of ``GenerationConfig``; the function gets those that were given as ``generation``."""

    @functools.wraps(function)
    def collected(**values: Any) -> Any:
        given = {name: values.pop(name) for name in _GENERATION_NAMES}
        settings = {name: value for name, value in given.items() if value not in (None, ())}
        if "do_sample" not in settings and implies_sampling(settings):
            settings["do_sample"] = True
        return function(generation=settings, **values)

    return _with_options(collected, _GENERATION_OPTIONS)


def machine_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Adds the flags of ``MachineOptions``; the function gets them as ``machine``."""

    @functools.wraps(function)
    def collected(**values: Any) -> Any:
        names = MachineOptions.__dataclass_fields__
        return function(machine=MachineOptions(**{name: values.pop(name) for name in names}), **values)

    return _with_options(collected, _MACHINE_OPTIONS)


def implies_sampling(settings: dict[str, Any]) -> bool:
    """Whether these settings, given on the command line, ask for sampling; at its disabled value none does."""
    return (
        "temperature" in settings
        or settings.get("top_k", 0) > 0
        or settings.get("top_p", 1.0) < 1.0
        or settings.get("min_p", 0.0) > 0.0
    )


def scheme_option(*, help: str, required: bool = False) -> Decorator:  # noqa: A002, click's name for it
    """``--scheme``, one of the quantization schemes."""
    return click.option("--scheme", type=click.Choice(QUANTIZATION_SCHEMES), required=required, help=help)


def json_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """``--json``."""
    return _option(GENERAL, "--json", "as_json", is_flag=True, help="Print JSON instead of text.")(function)


def verbose_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """``--verbose``."""
    return _option(GENERAL, "--verbose", is_flag=True, help="Say on stderr what the answer cost.")(function)


def file_option(what: str, *, section: str = OWN, each_line: bool = False) -> Decorator:
    """``-f``/``--file``, which ``what`` is read from; ``each_line``: one a line."""
    form = ", one a line" if each_line else ""
    return _option(section, "-f", "--file", metavar="FILE", help=f"Read the {what} from a file{form}; - is stdin.")


def truncate_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """``--truncate``."""
    told = "Cut texts that are longer than the model takes; else refuse them."
    return _option(OWN, "--truncate", is_flag=True, help=told)(function)


def _with_options(function: Callable[..., Any], options: tuple[Decorator, ...]) -> Callable[..., Any]:
    for option in reversed(options):
        function = option(function)
    return function


def _option(section: str, *declarations: str, **settings: Any) -> Decorator:
    return click.option(*declarations, cls=SectionOption, section=section, **settings)


def _checked(context: click.Context, parameter: click.Parameter, value: Any) -> Any:
    """A generation setting, if ``GenerationConfig`` takes it."""
    if value is None:
        return None
    name = str(parameter.name)
    if name == "temperature" and value == 0:
        raise click.BadParameter("temperature must be above 0; to take the likeliest token each time, give --greedy")
    settings = {name: value}
    if name == "min_new_tokens":
        settings["max_new_tokens"] = max(1, value)  # whether it fits the maximum is known only to the model
    _refuse_out_of_range(GenerationConfig, settings)
    return value


def _checked_machine(context: click.Context, parameter: click.Parameter, value: Any) -> Any:
    _refuse_out_of_range(RuntimeConfig, {str(parameter.name): value})
    return value


def _refuse_out_of_range(config: Callable[..., object], settings: dict[str, Any]) -> None:
    try:
        config(**settings)
    except ConfigError as error:
        raise click.BadParameter(str(error)) from None


def _size(context: click.Context, parameter: click.Parameter, value: str | None) -> int | None:
    try:
        return None if value is None else parse_size(value)
    except ConfigError as error:
        raise click.BadParameter(str(error)) from None


def _setting(*declarations: str, **settings: Any) -> Decorator:
    return _option(_ANSWER, *declarations, callback=_checked, **settings)


_GENERATION_NAMES = (
    "max_new_tokens",
    "min_new_tokens",
    "do_sample",
    "temperature",
    "top_k",
    "top_p",
    "min_p",
    "num_beams",
    "length_penalty",
    "repetition_penalty",
    "no_repeat_ngram_size",
    "stop_strings",
    "seed",
)
_GENERATION_OPTIONS = (
    _setting(
        "-n",
        "--max-new-tokens",
        "--max-tokens",
        "max_new_tokens",
        type=int,
        metavar="N",
        help="Most tokens of the answer.",
    ),
    _setting("--min-new-tokens", type=int, metavar="N", help="Fewest tokens of the answer.  [0: off]"),
    _option(
        _ANSWER, "--do-sample/--greedy", default=None, help="Draw tokens at random, or take the likeliest each time."
    ),
    _setting(
        "--temperature",
        "--temp",
        "temperature",
        type=float,
        metavar="X",
        help="Flattens (> 1) or sharpens (< 1); samples.",
    ),
    _setting("--top-k", type=int, metavar="N", help="Sample among the K likeliest.  [0: off]"),
    _setting("--top-p", type=float, metavar="X", help="Sample among the likeliest that have P together.  [1: off]"),
    _setting(
        "--min-p",
        type=float,
        metavar="X",
        help="Sample among those at least P times as likely as the likeliest.  [0: off]",
    ),
    _setting("--num-beams", type=int, metavar="N", help="Search for the likeliest answer with N beams.  [1: off]"),
    _setting("--length-penalty", type=float, metavar="X", help="With beams: favours long (> 0) or short answers.  [1]"),
    _setting(
        "--repetition-penalty",
        "--repeat-penalty",
        "repetition_penalty",
        type=float,
        metavar="X",
        help="Makes tokens that were used less likely (> 1).  [1: off]",
    ),
    _setting("--no-repeat-ngram-size", type=int, metavar="N", help="Say no N tokens in a row twice.  [0: off]"),
    _setting("--stop", "stop_strings", multiple=True, metavar="TEXT", help="End before this text; may be repeated."),
    _setting("--seed", type=int, metavar="N", help="The same seed gives the same answer."),
)
_MACHINE_OPTIONS = (
    _option(
        _MACHINE,
        "-c",
        "--ctx-size",
        "context_length",
        type=int,
        metavar="N",
        callback=_checked_machine,
        help="Tokens of prompt and answer together; of an encoder's text; of an encoder-decoder's answer. "
        "Default: the model's limit.",
    ),
    _option(
        _MACHINE,
        "-t",
        "--threads",
        type=int,
        metavar="N",
        callback=_checked_machine,
        help="Threads; default: one a core.",
    ),
    _option(_MACHINE, "--max-memory", metavar="SIZE", callback=_size, help="Refuse to use more, such as 400MB."),
    _option(_MACHINE, "--prepack/--no-prepack", default=True, help="Keep the weights in this processor's layout."),
    _option(
        _MACHINE,
        "--variant",
        metavar="NAME",
        help="Of a folder that another tool made: which form of its graphs, such as q4.  [the best here]",
    ),
    _option(_MACHINE, "--offline", is_flag=True, help="Fetch nothing from the network."),
)
