"""What a chat template may spend: seconds, bytes a value, bytes in all; and the estimates that refuse in advance.

A template is a program from a bundle nobody vouches for. Its loops and calls look at the clock, every value it makes
is measured, and an operation whose result may be much larger than what goes in is estimated before it is done.
"""

from __future__ import annotations

import re
import sys
import time
from collections.abc import ItemsView, Iterable, Iterator, KeysView, Mapping, ValuesView
from contextlib import contextmanager
from contextvars import ContextVar
from string import Formatter
from typing import Any, NoReturn

from jinja2.utils import Namespace

from edgelm.errors import TemplateError

MAX_SECONDS = 2.0
MAX_VALUE_BYTES = 8 << 20
MAX_TOTAL_BYTES = 256 << 20
MAX_WIDTH = 1000  # of an indentation or a padded field
MAX_INTEGER_BITS = 256
MAX_SEARCH_STEPS = 1 << 28  # of searches that compare every character with every other

_POINTER_BYTES = 8  # what a list takes for a member, beside the member itself
_PIECE_BYTES = sys.getsizeof("") + _POINTER_BYTES


class Meter:
    """The account of one rendering.

    Raises (all methods):
        TemplateError: a limit is exceeded; says which.
    """

    def __init__(self) -> None:
        self._deadline = time.monotonic() + MAX_SECONDS
        self._spent = 0

    def tick(self) -> None:
        """Looks at the clock."""
        if time.monotonic() > self._deadline:
            raise TemplateError(f"the chat template takes more than {MAX_SECONDS:g} seconds")

    def charge(self, value: Any) -> None:
        """Books a value that the template made."""
        self.tick()
        self._spent += measure(value)
        if self._spent > MAX_TOTAL_BYTES:
            raise TemplateError(f"the chat template makes more than {MAX_TOTAL_BYTES} bytes of values")


# Rendering happens in one thread from start to end; many renderings happen at once.
_meter: ContextVar[Meter] = ContextVar("_meter")


@contextmanager
def metered() -> Iterator[Meter]:
    """Opens the account that ``current_meter`` gives inside."""
    token = _meter.set(Meter())
    try:
        yield _meter.get()
    finally:
        _meter.reset(token)


def current_meter() -> Meter:
    """The account of the rendering that is under way; outside of one, a new account."""
    return _meter.get(None) or Meter()


# Small, but without end when printed: they print what they hold, and are not measured by it.
_NOT_IN_CONTAINERS = (Namespace, ItemsView, KeysView, ValuesView)


def measure(value: Any) -> int:
    """Bytes of a value; what a container holds twice counts twice, as it does when the value is printed.

    Raises:
        TemplateError: more than ``MAX_VALUE_BYTES``, or a container holds a namespace or a view of a dict.
    """
    size = sys.getsizeof(value)
    pending = [_children(value)]
    while pending:
        for child in pending[-1]:
            size += sys.getsizeof(child)
            if size > MAX_VALUE_BYTES:
                break
            if isinstance(child, (list, tuple, dict)):
                pending.append(_children(child))
                break
            if isinstance(child, _NOT_IN_CONTAINERS):
                raise TemplateError(f"the chat template puts a {type(child).__name__} into a list, dict or namespace")
        else:
            pending.pop()
        check_size(size)
    return size


def _children(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        return iter([item for pair in value.items() for item in pair])
    return iter(value) if isinstance(value, (list, tuple)) else iter(())


def members(value: Any) -> Any:
    """What a filter iterates over: one member after the other, as long as all of them would make one value.

    A string has a member for each character, and a single look at the clock would be too few for millions of them.
    What is empty, undefined or no value at all is given back as it is, and a mapping, which was measured before.

    Raises:
        TemplateError: while iterating: the members are too large together, or take too long.
    """
    return value if not value or isinstance(value, Mapping) else _metered_members(value)


def _metered_members(iterable: Iterable[Any]) -> Iterator[Any]:
    meter = current_meter()
    size = 0
    for item in iterable:
        meter.tick()
        size += measure(item) + _POINTER_BYTES
        check_size(size)
        yield item


def check_size(size: int) -> None:
    """Refuses a value of ``size`` bytes or characters where that is too many.

    Raises:
        TemplateError: it is.
    """
    if size > MAX_VALUE_BYTES:
        raise TemplateError(f"the chat template makes a value of more than {MAX_VALUE_BYTES} bytes")


def check_width(width: Any) -> None:
    """Refuses to pad or indent by more than ``MAX_WIDTH`` characters.

    Raises:
        TemplateError: it is more.
    """
    length = len(width) if isinstance(width, str) else width
    if isinstance(length, int) and length > MAX_WIDTH:
        raise TemplateError(f"the chat template pads or indents by more than {MAX_WIDTH} characters")


def check_tabs(text: str, width: Any) -> None:
    """Estimates ``text.expandtabs(width)``.

    Raises:
        TemplateError: the result would be too large, or the width is.
    """
    check_width(width)
    if isinstance(width, int):
        check_size(len(text) + text.count("\t") * width)


def check_split(text: str, separator: str | None = None, maxsplit: int = -1) -> None:
    """Estimates ``text.split(separator, maxsplit)``, and ``rsplit``.

    Raises:
        TemplateError: there would be too many pieces.
    """
    most = MAX_VALUE_BYTES // _PIECE_BYTES
    pieces = text.split(separator, most if maxsplit < 0 else min(most, maxsplit))
    check_size(len(pieces) * _PIECE_BYTES)


def line_count(text: str) -> int:
    """How many lines ``text.splitlines()`` would give.

    Raises:
        TemplateError: too many.
    """
    breaks = sum(map(text.count, "\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029")) - text.count("\r\n")
    check_size((breaks + 1) * _PIECE_BYTES)
    return breaks + 1


def check_title(text: str) -> None:
    """Refuses texts that Jinja's ``title``, which cuts them into words, would need too much memory for.

    Raises:
        TemplateError: it is such a text.
    """
    check_size(len(text) * _PIECE_BYTES)


def check_search(text: str, wanted: Any) -> None:
    """Estimates the steps of looking for a string from the end, or of stripping its characters off.

    Looking from the beginning takes Python no more steps than there are characters.

    Raises:
        TemplateError: there would be too many.
    """
    if isinstance(wanted, str) and len(text) * len(wanted) > MAX_SEARCH_STEPS:
        raise TemplateError(f"the chat template looks for {len(wanted)} characters in {len(text)}; that takes too long")


def check_integer(number: Any) -> None:
    """Refuses integers of more than ``MAX_INTEGER_BITS``.

    Raises:
        TemplateError: it is one.
    """
    if isinstance(number, int) and number.bit_length() > MAX_INTEGER_BITS:
        _refuse_integers()


def check_precision(digits: Any) -> None:
    """Refuses to round to more than ``MAX_INTEGER_BITS`` digits on either side of the point.

    Raises:
        TemplateError: it is more.
    """
    if isinstance(digits, int) and abs(digits) > MAX_INTEGER_BITS:
        raise TemplateError(f"the chat template rounds to more than {MAX_INTEGER_BITS} digits")


def check_operator(operator: str, left: Any, right: Any) -> None:
    """Estimates the result of a binary operator.

    Raises:
        TemplateError: the result would be too large.
    """
    if operator == "%" and isinstance(left, str):
        check_percent_format(left, right)
    elif isinstance(left, (int, float)) and isinstance(right, (int, float)):
        _check_arithmetic(operator, left, right)
    elif operator == "*":
        for value, times in ((left, right), (right, left)):
            if isinstance(value, (str, list, tuple)) and isinstance(times, int) and times > 1:
                check_size((measure(value) - sys.getsizeof(type(value)())) * times)
    elif operator == "+":
        check_size(measure(left) + measure(right))


def _check_arithmetic(operator: str, left: float, right: float) -> None:
    if not (isinstance(left, int) and isinstance(right, int)):
        return
    bits = left.bit_length() + right.bit_length()
    if operator == "**":
        bits = left.bit_length() * max(abs(right), 1)
    if bits > MAX_INTEGER_BITS:
        _refuse_integers()


def _refuse_integers() -> NoReturn:
    raise TemplateError(f"the chat template computes with integers of more than {MAX_INTEGER_BITS} bits")


# The first two look at no character more than twice, however many fields begin and do not end.
_NESTED_KEY = re.compile(r"%\([^()]*\(")
_PERCENT_WIDTH = re.compile(r"%(?:\([^()]*\))?[-+ #0]*(?:\*|\d{4}|\d*\.(?:\*|\d{4}))")
_BRACE_WIDTH = re.compile(r"\{|\d{4}")


def check_percent_format(pattern: str, values: Any) -> None:
    """Estimates ``pattern % values``.

    Raises:
        TemplateError: the result would be too large, a field is of variable or more than three-digit width, or a key
            has brackets.
    """
    if _NESTED_KEY.search(pattern):
        raise TemplateError("the chat template formats with a key that has brackets")
    if _PERCENT_WIDTH.search(pattern):
        raise TemplateError("the chat template formats with a variable or too large width")
    check_size(len(pattern) + pattern.count("%") * (MAX_WIDTH + measure(values)))


def check_brace_format(pattern: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
    """Estimates ``pattern.format(*args, **kwargs)``.

    Raises:
        TemplateError: the result would be too large, or a field is of variable or more than three-digit width.
    """
    brackets = pattern.count("{") + pattern.count("}")  # an escaped one takes as long as a field
    check_size(brackets * MAX_WIDTH + len(pattern) + pattern.count("{") * measure([*args, *kwargs.values()]))
    if any(spec and _BRACE_WIDTH.search(spec) for _, _, spec, _ in Formatter().parse(pattern)):
        raise TemplateError("the chat template formats with a variable or too large width")


def check_replace(text: str, old: Any, new: Any) -> None:
    """Estimates ``text.replace(old, new)``.

    Raises:
        TemplateError: the result would be too large.
    """
    check_size(len(text) + text.count(str(old)) * len(str(new)))


def joinable(separator: str, items: Iterable[Any]) -> list[Any]:
    """The items as a list that ``separator.join`` may be given.

    Raises:
        TemplateError: the result would be too large.
    """
    values = []
    size = 0
    for item in members(items):
        size += len(str(item)) + len(separator)
        check_size(size)
        values.append(item)
    return values
