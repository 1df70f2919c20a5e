"""The key/value metadata of a GGUF file, read with the types it must have."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgelm.errors import ModelError

MetadataValue = int | float | bool | str | list[str] | NDArray[Any]


class Metadata:
    """Typed access to metadata; ``source`` names the file in errors."""

    def __init__(self, values: Mapping[str, MetadataValue], source: str) -> None:
        self._values = values
        self.source = source

    def __contains__(self, key: str) -> bool:
        return key in self._values

    def text(self, key: str, default: str | None = None) -> str:
        """A string.

        Raises:
            ModelError: it is missing and has no default, or is no string.
        """
        value = self._get(key, default)
        if not isinstance(value, str):
            raise self._wrong(key, "a string", value)
        return value

    def integer(self, key: str, default: int | None = None, *, least: int = 0) -> int:
        """An integer of at least ``least``.

        Raises:
            ModelError: it is missing and has no default, is no integer, or too small.
        """
        value = self._get(key, default)
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise self._wrong(key, f"one integer, at least {least}", value)
        return value

    def real(self, key: str, default: float | None = None) -> float:
        """A finite number.

        Raises:
            ModelError: it is missing and has no default, or is no finite number.
        """
        value = self._get(key, default)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            raise self._wrong(key, "a finite number", value)
        return float(value)

    def flag(self, key: str, default: bool) -> bool:
        """A boolean.

        Raises:
            ModelError: it is something else.
        """
        value = self._get(key, default)
        if not isinstance(value, bool):
            raise self._wrong(key, "a boolean", value)
        return value

    def strings(self, key: str) -> list[str]:
        """A list of strings.

        Raises:
            ModelError: it is missing or something else.
        """
        value = self._get(key, None)
        if not isinstance(value, list):
            raise self._wrong(key, "a list of strings", value)
        return value

    def numbers(self, key: str) -> NDArray[Any]:
        """An array of numbers, (n,) in the file's own dtype.

        Raises:
            ModelError: it is missing or something else.
        """
        value = self._get(key, None)
        if not isinstance(value, np.ndarray):
            raise self._wrong(key, "an array of numbers", value)
        return value

    def integers(self, key: str) -> NDArray[np.integer[Any]]:
        """An array of integers, (n,) in the file's own dtype.

        Raises:
            ModelError: it is missing or something else.
        """
        values = self.numbers(key)
        if values.dtype.kind not in "iu":
            raise self._wrong(key, "an array of integers", values)
        return values

    def _get(self, key: str, default: MetadataValue | None) -> MetadataValue:
        value = self._values.get(key, default)
        if value is None:
            raise ModelError(f"{self.source}: the metadata has no {key}")
        return value

    def _wrong(self, key: str, expected: str, value: MetadataValue) -> ModelError:
        return ModelError(f"{self.source}: {key} must be {expected}, not {str(value)!r:.60}")
