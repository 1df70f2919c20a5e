"""Functions that serve as tools, with everything that a schema can say of arguments."""

from __future__ import annotations

from typing import Any, Literal, Optional, Union


def get_weather(city: str, days: int = 1, unit: Literal["C", "F"] = "C") -> str:
    """
    Tell the weather of a city.

    It knows a few days ahead only.

    Args:
        city: The name of the city,
            in English.
        days: How many days ahead: at most
            seven.
        unit: The unit of temperatures.

    Returns:
        A sentence.
    """
    return f"{city}: {20 * days} {unit}"


def everything(
    text: str,
    count: int,
    share: float,
    sure: bool,
    names: list[str],
    table: dict[str, list[float]],
    pair: tuple[int, str],
    maybe: Optional[int],  # noqa: UP045, both spellings are to be read
    either: Union[int, str],  # noqa: UP007
    both: int | float | None,
    mixed: list[int] | dict[str, int],
    anything: Any,
    choice: Literal[1, 2, "three", None],
    drink: str,
    plain: dict = {},  # noqa: B006
) -> dict[str, int]:
    """Take everything.

    Args:
        text: a text
        count: a count
        share: a share
        sure: a truth value
        names: some names
        table: a table
        pair: a pair
        maybe: perhaps a number
        either: one or the other
        both: a number, if any
        mixed: a list or a table
        anything: whatever
        choice: one of some
        drink: what to drink (choices: ["tea", " coffee"])
        plain: an object

    Returns:
        Counts.

    Raises:
        ValueError: never.
    """
    return {}


def nothing() -> None:
    """Do nothing."""


def broken(divisor: int) -> float:
    """Divide one.

    Args:
        divisor: By what.
    """
    return 1 / divisor


TOOLS = (get_weather, everything, nothing, broken)
