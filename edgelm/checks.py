"""Checks of what callers give: numbers and truth values of the right kind, within their range; and warnings to them."""

from __future__ import annotations

import math
import sys
import warnings
from types import FrameType

from edgelm.errors import ConfigError

_PACKAGE = __name__.partition(".")[0]


def check_bool(name: str, value: object) -> None:
    """Refuses what is no truth value.

    Raises:
        ConfigError: it is none; names ``name`` and the value.
    """
    if not isinstance(value, bool):
        raise ConfigError(f"{name} must be true or false, not {shown(value)}")


def check_int(name: str, value: object, least: int, most: int | None = None) -> None:
    """Refuses what is no integer from ``least`` to ``most``; None: no upper limit.

    Raises:
        ConfigError: it is none; names ``name``, the value and the range.
    """
    if isinstance(value, bool) or not isinstance(value, int):
        raise ConfigError(f"{name} must be an integer, not {shown(value)}")
    if value < least or (most is not None and value > most):
        limit = f"at least {least}" if most is None else f"from {least} to {most}"
        raise ConfigError(f"{name} must be {limit}, not {shown(value)}")


def check_float(
    name: str,
    value: object,
    *,
    above: float | None = None,
    least: float | None = None,
    below: float | None = None,
    most: float | None = None,
) -> None:
    """Refuses what is no finite number, or not ``above``, at ``least``, ``below`` or at ``most`` a bound.

    Raises:
        ConfigError: it is none; names ``name``, the value and the range.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not is_finite(value):
        raise ConfigError(f"{name} must be a finite number, not {shown(value)}")
    too_low = (above is not None and value <= above) or (least is not None and value < least)
    too_high = (below is not None and value >= below) or (most is not None and value > most)
    if too_low or too_high:
        bounds = [f"above {above:g}"] if above is not None else []
        bounds += [f"at least {least:g}"] if least is not None else []
        bounds += [f"below {below:g}"] if below is not None else []
        bounds += [f"at most {most:g}"] if most is not None else []
        raise ConfigError(f"{name} must be {' and '.join(bounds)}, not {shown(value)}")


def shown(value: object) -> str:
    """A value as messages quote it, at most 80 characters."""
    try:
        return f"{value!r:.80}"
    except ValueError:  # Python does not write out integers of thousands of digits
        return "a number of thousands of digits"


def is_finite(value: float) -> bool:
    """Whether a number, perhaps an integer that no float holds, is neither NaN nor infinite as a float."""
    try:
        return math.isfinite(value)
    except OverflowError:
        return False


def warn_caller(message: str) -> None:
    """Warns (UserWarning) at the line of the caller's that led into this package."""
    level = 1
    caller: FrameType | None = sys._getframe()
    while caller is not None and str(caller.f_globals.get("__name__")).partition(".")[0] == _PACKAGE:
        level, caller = level + 1, caller.f_back
    warnings.warn(message, UserWarning, stacklevel=level)
