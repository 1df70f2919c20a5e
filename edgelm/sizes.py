"""Sizes in bytes, as people write them."""

from __future__ import annotations

import math

from edgelm.checks import is_finite
from edgelm.errors import ConfigError

# Who writes a smaller limit without a unit has left it out.
_LEAST_LIMIT = 1_000_000
# Of all units, and what may stand before them.
_LETTERS = "KMGTIB "
_UNITS = {"": 1, "B": 1}
for _power, _letter in enumerate("KMGT", start=1):
    _UNITS |= {_letter: 1000**_power, f"{_letter}B": 1000**_power, f"{_letter}IB": 1024**_power}


def parse_size(text: str | int) -> int:
    """Bytes of a size as people write it: ``400MB``, ``1.5GiB``, ``268435456``. MB is 10^6, MiB is 2^20.

    Raises:
        ConfigError: it is no size, or not above zero.
    """
    number: float
    if isinstance(text, int) and not isinstance(text, bool):
        number, unit = text, ""
    else:
        stripped = str(text).strip().upper()
        digits = stripped.rstrip(_LETTERS)
        unit = stripped[len(digits) :].strip()
        try:
            number = int(digits) if digits.isdecimal() else float(digits)  # a whole number keeps all its digits
        except ValueError:
            number = math.nan
    size = number * _UNITS.get(unit, 0)
    if not is_finite(size) or size < 1:
        raise ConfigError(f"{text!r:.80} is not a size; write for example 400MB, 1.5GiB or a number of bytes")
    return int(size)


def parse_memory_limit(text: str | int) -> int:
    """Bytes of a size, as ``parse_size``; a number that is far below what any model takes is refused.

    Raises:
        ConfigError: it is no size, or so small that its unit was left out or is a wrong one.
    """
    size = parse_size(text)
    if size < _LEAST_LIMIT:
        number = int(float(str(text).strip().upper().rstrip(_LETTERS)))
        meant = f"did you mean {number}MB?" if number else "write for example 400MB"
        raise ConfigError(f"{text!r:.80} is {size} bytes; {meant}")
    return size
