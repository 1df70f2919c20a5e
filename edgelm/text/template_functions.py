"""The filters and functions that chat templates may use: Jinja's plain ones and transformers', kept within limits.

What multiplies (``replace``, ``join``, padding, formatting) is estimated first; what a filter makes is measured.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Callable, Iterable
from functools import wraps
from typing import Any, Literal, NoReturn

from jinja2 import Environment, nodes, pass_environment, pass_eval_context
from jinja2 import filters as jinja_filters
from jinja2.utils import Namespace

from edgelm.errors import TemplateError
from edgelm.text import template_limits as limits

_PLAIN = tuple(
    """
    abs attr capitalize count d default dictsort e escape float items last length lower reverse safe string upper
    """.split()  # noqa: SIM905
)
_ITERATING = tuple(
    """
    first groupby list map max min reject rejectattr select selectattr sort unique
    """.split()  # noqa: SIM905
)


def _plain_filters() -> dict[str, Callable[..., Any]]:
    plain = {name: jinja_filters.FILTERS[name] for name in _PLAIN}
    return plain | {name: _iterating(jinja_filters.FILTERS[name]) for name in _ITERATING}


def _iterating(function: Callable[..., Any]) -> Callable[..., Any]:
    """Jinja's filter, over ``members`` of the value."""
    place = 1 if hasattr(function, "jinja_pass_arg") else 0  # of the value, behind what Jinja passes first

    @wraps(function)
    def iterating(*args: Any, **kwargs: Any) -> Any:
        return function(*args[:place], limits.members(args[place]), *args[place + 1 :], **kwargs)

    return iterating


def charged(value: Any) -> Any:
    """The value, after it was booked on the current meter.

    Raises:
        TemplateError: a limit is exceeded.
    """
    limits.current_meter().charge(value)
    return value


def _measured(function: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(function)  # keeps Jinja's mark of what it passes first
    def measured(*args: Any, **kwargs: Any) -> Any:
        return charged(function(*args, **kwargs))

    return measured


def ticking(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, looking at the clock each time."""

    @wraps(function)
    def ticked(*args: Any, **kwargs: Any) -> Any:
        limits.current_meter().tick()
        return function(*args, **kwargs)

    return ticked


def finalize(value: Any) -> str:
    """What an expression prints, measured also where it goes into a block's buffer first."""
    return str(charged(value if isinstance(value, str) else str(value)))


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | str | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """transformers' ``tojson``: plain JSON, not escaped for HTML."""
    for width in (indent, *(separators or ())):
        limits.check_width(width)
    encoder = json.JSONEncoder(ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
    if indent is None and separators is None:
        return encoder.encode(value)
    # The same pieces, but counted: an element may be printed with thousands of characters around it.
    return "".join(limits.joinable("", encoder.iterencode(value)))


def _center(value: str, width: int = 80) -> str:
    limits.check_width(width)
    return jinja_filters.do_center(value, width)


def _indent(value: str, width: int | str = 4, first: bool = False, blank: bool = False) -> str:
    limits.check_width(width)
    characters = len(width) if isinstance(width, str) else width
    limits.check_size(len(str(value)) + (limits.line_count(str(value)) + 1) * characters)
    return jinja_filters.do_indent(value, width, first, blank)


@pass_eval_context
def _join(
    eval_context: nodes.EvalContext, value: Iterable[Any], d: str = "", attribute: str | int | None = None
) -> str:
    if attribute is not None:
        value = map(jinja_filters.make_attrgetter(eval_context.environment, attribute), value)
    return str(jinja_filters.sync_do_join(eval_context, limits.joinable(str(d), value), d))


@pass_eval_context
def _replace(eval_context: nodes.EvalContext, value: Any, old: str, new: str, count: int | None = None) -> str:
    limits.check_replace(str(value), old, new)
    return jinja_filters.do_replace(eval_context, value, old, new, count)


def _format(value: Any, *args: Any, **kwargs: Any) -> str:
    limits.check_percent_format(str(value), kwargs or args)
    return jinja_filters.do_format(value, *args, **kwargs)


def _int(value: Any, default: Any = 0, base: int = 10) -> Any:
    number = jinja_filters.do_int(value, default, base)
    limits.check_integer(number)
    return number


@pass_environment
def _sum(environment: Environment, iterable: Iterable[Any], attribute: str | int | None = None, start: Any = 0) -> Any:
    if attribute is not None:
        iterable = map(jinja_filters.make_attrgetter(environment, attribute), iterable)
    return sum(limits.members(iterable), start)


def _title(value: Any) -> str:
    limits.check_title(str(value))
    return jinja_filters.do_title(value)


def _trim(value: Any, chars: str | None = None) -> str:
    limits.check_search(str(value), chars)
    return jinja_filters.do_trim(value, chars)


def _round(value: float, precision: int = 0, method: Literal["common", "ceil", "floor"] = "common") -> float:
    limits.check_precision(precision)
    return jinja_filters.do_round(value, precision, method)


def _namespace(*args: Any, **kwargs: Any) -> Namespace:
    values = dict(*map(limits.members, args), **kwargs)
    limits.current_meter().charge(values)
    return Namespace(values)


def _raise(message: Any) -> NoReturn:
    raise TemplateError(f"the chat template refuses these messages: {' '.join(str(message).split())[:300]}")


def _strftime_now(format: str) -> str:  # noqa: A002 - the name that templates know
    limits.check_width(format)
    return datetime.datetime.now().strftime(format)


_OWN: dict[str, Callable[..., Any]] = {
    "center": _center,
    "format": _format,
    "indent": _indent,
    "int": _int,
    "join": _join,
    "replace": _replace,
    "round": _round,
    "sum": _sum,
    "title": _title,
    "tojson": _tojson,
    "trim": _trim,
}
FILTERS = {name: _measured(function) for name, function in (_plain_filters() | _OWN).items()}
GLOBALS: dict[str, Callable[..., Any]] = {
    "namespace": _namespace,
    "raise_exception": _raise,
    "strftime_now": _strftime_now,
}
