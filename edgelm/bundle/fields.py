"""Reads the fields of a JSON object one by one, each by its rule, and names the field that breaks one."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator
from typing import Any

from edgelm.errors import ManifestError

MAX_TEXT = 1000

_SHA256 = re.compile(r"[0-9a-f]{64}")


class Fields:
    """A JSON object that knows where in the document it stands.

    Every reader raises ManifestError with the field's path, what it holds and what is allowed there.
    """

    def __init__(self, value: Any, *, document: str, path: str = "") -> None:
        self._document = document
        self._path = path
        if not isinstance(value, dict):
            raise ManifestError(f"{document}: {path or 'the document'} must be an object, not {shown(value)}")
        self._values: dict[str, Any] = value

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def fault(self, name: str, rule: str) -> ManifestError:
        """The error for a field that breaks ``rule``."""
        return ManifestError(f"{self._document}: {self._at(name)} {rule}")

    def has(self, name: str) -> bool:
        """Whether the field is there and not null."""
        return self._values.get(name) is not None

    def value(self, name: str) -> Any:
        """The field as it is; it must be there."""
        if name not in self._values:
            raise self.fault(name, "is missing")
        return self._values[name]

    def object(self, name: str) -> Fields:
        """The field as an object of its own."""
        return Fields(self.value(name), document=self._document, path=self._at(name))

    def integer(self, name: str, least: int, most: int) -> int:
        """An integer from ``least`` to ``most``."""
        value = self.value(name)
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            raise self._wrong(name, f"an integer from {least} to {most}", value)
        return value

    def number(self, name: str) -> float:
        """A finite number."""
        value = self.value(name)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) < 1e300:
            raise self._wrong(name, "a finite number", value)
        return float(value)

    def flag(self, name: str) -> bool:
        """True or false."""
        value = self.value(name)
        if not isinstance(value, bool):
            raise self._wrong(name, "true or false", value)
        return value

    def text(self, name: str) -> str:
        """A string that can be shown on a terminal: no control characters, not empty."""
        value = self.value(name)
        if not _is_text(value):
            raise self._wrong(name, f"a printable string of 1 to {MAX_TEXT} characters", value)
        return str(value)

    def choice(self, name: str, allowed: Collection[str]) -> str:
        """One of the strings in ``allowed``."""
        value = self.value(name)
        if not isinstance(value, str) or value not in allowed:
            raise self._wrong(name, f"one of {', '.join(allowed)}", value)
        return value

    def digest(self, name: str) -> str:
        """A SHA-256 as 64 lowercase hexadecimal digits."""
        value = self.value(name)
        if not isinstance(value, str) or not _SHA256.fullmatch(value):
            raise self._wrong(name, "64 lowercase hexadecimal digits", value)
        return value

    def texts(self, name: str, *, most: int) -> tuple[str, ...]:
        """A list of at most ``most`` printable strings."""
        items = self._list(name, most, "printable strings")
        for index, item in enumerate(items):
            if not _is_text(item):
                raise self._wrong(f"{name}[{index}]", f"a printable string of 1 to {MAX_TEXT} characters", item)
        return tuple(items)

    def integers(self, name: str, least: int, limit: int, *, most: int) -> tuple[int, ...]:
        """A list of at most ``most`` integers from ``least`` to ``limit``."""
        items = self._list(name, most, "integers")
        for index, item in enumerate(items):
            if isinstance(item, bool) or not isinstance(item, int) or not least <= item <= limit:
                raise self._wrong(f"{name}[{index}]", f"an integer from {least} to {limit}", item)
        return tuple(items)

    def _list(self, name: str, most: int, of: str) -> list[Any]:
        value = self.value(name)
        if not isinstance(value, list) or len(value) > most:
            raise self._wrong(name, f"a list of at most {most} {of}", value)
        return value

    def _at(self, name: str) -> str:
        shown_name = name if name.isprintable() and len(name) <= 80 else shown(name)
        return f"{self._path}.{shown_name}" if self._path else shown_name

    def _wrong(self, name: str, allowed: str, value: Any) -> ManifestError:
        return self.fault(name, f"must be {allowed}, not {shown(value)}")


def shown(value: Any) -> str:
    """A JSON value as a message shows it: in ASCII, on one line, short."""
    if isinstance(value, int) and not isinstance(value, bool) and value.bit_length() > 200:
        return "an integer of more than 60 digits"
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and 0 < len(value) <= MAX_TEXT and value.isprintable()
