"""The settings of a generation and of a runtime: frozen, validated, and the only home of defaults."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from edgelm.errors import ConfigError

MAX_STOP_STRINGS = 64
MAX_STOP_LENGTH = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationConfig:
    """How the next tokens are chosen and when to stop; field names are transformers'.

    Disabled values: ``top_k=0``, ``top_p=1``, ``min_p=0``, ``repetition_penalty=1``, ``min_new_tokens=0``.
    ``eos_token_id`` empty means "the model's own". ``seed=None`` draws a fresh seed.

    Raises:
        ConfigError: a value is out of range; the message names the field, the value and the range.
    """

    max_new_tokens: int = 512
    min_new_tokens: int = 0
    do_sample: bool = False
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    eos_token_id: tuple[int, ...] = ()
    stop_strings: tuple[str, ...] = ()
    seed: int | None = None

    def __post_init__(self) -> None:
        # One value may stand for a tuple of one.
        object.__setattr__(self, "eos_token_id", _as_tuple("eos_token_id", self.eos_token_id))
        object.__setattr__(self, "stop_strings", _as_tuple("stop_strings", self.stop_strings))
        _check_bool("do_sample", self.do_sample)
        _check_int("max_new_tokens", self.max_new_tokens, 1)
        _check_int("min_new_tokens", self.min_new_tokens, 0)
        _check_int("top_k", self.top_k, 0)
        if self.seed is not None:
            _check_int("seed", self.seed, 0)
        for token in self.eos_token_id:
            _check_int("eos_token_id", token, 0)
        _check_float("temperature", self.temperature, above=0.0)
        _check_float("top_p", self.top_p, above=0.0, most=1.0)
        _check_float("min_p", self.min_p, least=0.0, most=1.0)
        _check_float("repetition_penalty", self.repetition_penalty, above=0.0)
        if self.min_new_tokens > self.max_new_tokens:
            raise ConfigError(f"min_new_tokens ({self.min_new_tokens}) is above max_new_tokens ({self.max_new_tokens})")
        _check_stops(self.stop_strings)

    @classmethod
    def field_names(cls) -> tuple[str, ...]:
        """The names of all settings, in order of declaration."""
        return tuple(field.name for field in dataclasses.fields(cls))

    @classmethod
    def from_file_values(cls, values: Mapping[str, Any]) -> Self:
        """Takes what it knows from a model's ``generation_config.json`` and leaves the rest.

        Such files carry many fields of other libraries; ``null`` stands for "the default". A ``max_new_tokens``
        there is a suggestion of the model's authors and taken like the others.
        """
        known = {k: v for k, v in values.items() if k in cls.field_names() and v is not None}
        return cls(**known)

    def updated(self, **changes: Any) -> Self:
        """A copy with some settings changed.

        Raises:
            ConfigError: a name is not a setting, or a value is out of range.
        """
        unknown = sorted(set(changes) - set(self.field_names()))
        if unknown:
            raise ConfigError(f"unknown generation setting {unknown[0]!r}; known are: {', '.join(self.field_names())}")
        return dataclasses.replace(self, **changes)


@dataclass(frozen=True, slots=True, kw_only=True)
class RuntimeConfig:
    """How a model is run on this machine.

    Attributes:
        threads: threads of the graph's operators; None: one for each core this process may use.
        context_length: tokens of prompt and answer together; None: the model's own limit.
        prefill_chunk: prompt tokens computed in one run; bounds the memory of activations.
        max_memory: bytes of resident memory that the process may reach; None: no limit.
        preload_text: read the tokenizer while the graph is loaded; else when it is first needed.
        prepack: keep a copy of the weights in this CPU's layout in the cache (starts faster, uses less memory).
    """

    threads: int | None = None
    context_length: int | None = None
    prefill_chunk: int = 128
    max_memory: int | None = None
    prepack: bool = True
    preload_text: bool = True

    def __post_init__(self) -> None:
        if self.threads is not None:
            _check_int("threads", self.threads, 1, 1024)
        if self.context_length is not None:
            _check_int("context_length", self.context_length, 1)
        _check_int("prefill_chunk", self.prefill_chunk, 1)
        if self.max_memory is not None:
            _check_int("max_memory", self.max_memory, 1)
        _check_bool("prepack", self.prepack)
        _check_bool("preload_text", self.preload_text)


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
        digits = stripped.rstrip("KMGTIB ")
        unit = stripped[len(digits) :].strip()
        try:
            number = int(digits) if digits.isdecimal() else float(digits)  # a whole number keeps all its digits
        except ValueError:
            number = math.nan
    if unit not in _UNITS or not _is_finite(number) or number * _UNITS[unit] < 1:
        raise ConfigError(f"{text!r} is not a size; write for example 400MB, 1.5GiB or a number of bytes")
    return int(number * _UNITS[unit])


def _as_tuple(name: str, value: object) -> tuple[object, ...]:
    if isinstance(value, (int, str)):
        return (value,)
    if isinstance(value, Sequence):
        return tuple(value)
    raise ConfigError(f"{name} must be a value or a list of values, not {value!r}")


def _check_bool(name: str, value: object) -> None:
    if not isinstance(value, bool):
        raise ConfigError(f"{name} must be true or false, not {value!r}")


def _check_int(name: str, value: object, least: int, most: int | None = None) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise ConfigError(f"{name} must be an integer, not {value!r}")
    if value < least or (most is not None and value > most):
        limit = f"at least {least}" if most is None else f"from {least} to {most}"
        raise ConfigError(f"{name} must be {limit}, not {value}")


def _check_float(
    name: str,
    value: object,
    *,
    above: float | None = None,
    least: float | None = None,
    most: float | None = None,
) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not _is_finite(value):
        raise ConfigError(f"{name} must be a finite number, not {value!r}")
    too_low = (above is not None and value <= above) or (least is not None and value < least)
    if too_low or (most is not None and value > most):
        bounds = [f"above {above:g}"] if above is not None else []
        bounds += [f"at least {least:g}"] if least is not None else []
        bounds += [f"at most {most:g}"] if most is not None else []
        raise ConfigError(f"{name} must be {' and '.join(bounds)}, not {value}")


def _is_finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer that no float holds
        return False


def _check_stops(stops: tuple[str, ...]) -> None:
    if len(stops) > MAX_STOP_STRINGS:
        raise ConfigError(f"stop_strings takes at most {MAX_STOP_STRINGS} strings, not {len(stops)}")
    for stop in stops:
        if not isinstance(stop, str) or not 0 < len(stop) <= MAX_STOP_LENGTH:
            raise ConfigError(f"a stop string must have 1 to {MAX_STOP_LENGTH} characters, not {stop!r:.80}")
