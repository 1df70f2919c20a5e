"""Reads the fields of a Hugging Face configuration, each with its type and range checked.

A field that ``config.json`` leaves out has the default of transformers' class for that model type, which the
architectures pass in; ``null`` is a value of its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from edgelm.checks import is_finite
from edgelm.errors import ModelError, UnsupportedModelError


class ConfigFields:
    """The fields of one configuration.

    Args:
        config: the JSON object.
        defaults: values of fields that it may leave out.
        what: name of the object, for messages.
    """

    def __init__(self, config: Mapping[str, Any], defaults: Mapping[str, Any] | None = None, *, what: str) -> None:
        self._values = {**(defaults or {}), **config}
        self.what = what

    def has(self, name: str) -> bool:
        """Whether there is a value, and not ``null``."""
        return self._values.get(name) is not None

    def integer(self, name: str, *, least: int = 1, most: int = 2**31 - 1) -> int:
        """A whole number from ``least`` to ``most``."""
        value = self._value(name)
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            raise self.fault(name, f"must be a whole number from {least} to {most}, not {value!r:.80}")
        return value

    def real(self, name: str, default: float | None = None, *, above: float = 0.0) -> float:
        """A finite number above ``above``."""
        if default is not None and not self.has(name):
            return default
        value = self._value(name)
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool) and is_finite(value)
        if not is_number or value <= above:
            raise self.fault(name, f"must be a number above {above:g}, not {value!r:.80}")
        return float(value)

    def flag(self, name: str, *, default: bool = False) -> bool:
        """True or false."""
        value = self._values[name] if self.has(name) else default
        if not isinstance(value, bool):
            raise self.fault(name, f"must be true or false, not {value!r:.80}")
        return value

    def choice(self, name: str, known: Iterable[str]) -> str:
        """One of the known names.

        Raises:
            UnsupportedModelError: another one.
        """
        value, names = self._value(name), list(known)
        if value not in names:
            raise UnsupportedModelError(f"{self.what}: {name} {value!r:.80} is not known; known are {', '.join(names)}")
        return str(value)

    def list_of(self, name: str, length: int) -> list[Any]:
        """A list of exactly that length."""
        value = self._value(name)
        if not isinstance(value, list) or len(value) != length:
            raise self.fault(name, f"must be a list of {length}, not {value!r:.80}")
        return value

    def reals(self, name: str, length: int) -> list[float]:
        """A list of that many finite numbers above 0."""
        values = self.list_of(name, length)
        items = ConfigFields({str(place): value for place, value in enumerate(values)}, what=f"{self.what}: {name}")
        return [items.real(str(place)) for place in range(length)]

    def object(self, name: str) -> Mapping[str, Any]:
        """A JSON object; empty where there is none."""
        value = self._values.get(name)
        if value is not None and not isinstance(value, Mapping):
            raise self.fault(name, f"must be an object, not {value!r:.80}")
        return value or {}

    def fault(self, name: str, rule: str) -> ModelError:
        """The error for a field that breaks a rule."""
        return ModelError(f"{self.what}: {name} {rule}")

    def _value(self, name: str) -> Any:
        if not self.has(name):
            raise UnsupportedModelError(f"{self.what} lacks {name!r}, which is needed")
        return self._values[name]
