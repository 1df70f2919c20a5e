"""Settings of a generation as people type them, ``NAME=VALUE`` or ``/set NAME VALUE``, in the type that they have."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from edgelm.config import GenerationConfig
from edgelm.config_values import near_or_all
from edgelm.errors import ConfigError

_TRUE = frozenset({"true", "on", "yes", "1"})
_FALSE = frozenset({"false", "off", "no", "0"})
# As the flags of the command line are called, where settings are called otherwise.
_ALIASES = {"temp": "temperature", "max_tokens": "max_new_tokens", "stop": "stop_strings"}
_ALIASES |= {"repeat_penalty": "repetition_penalty"}
_DEFAULTS = GenerationConfig()


def setting_name(typed: str, listed: Sequence[str] | None = None) -> str:
    """The name of a setting, of which a flag's form is also understood.

    ``listed``: the names to show where none is near; None: all.

    Raises:
        ConfigError: there is none of that name; says which it may have been meant to be.
    """
    name = typed.strip().replace("-", "_")
    name = _ALIASES.get(name, name)
    if name not in GenerationConfig.field_names():
        hint = near_or_all(name, GenerationConfig.field_names(), listed)
        raise ConfigError(f"{typed!r:.80} is no setting; {hint}")
    return name


def setting_value(name: str, text: str) -> Any:
    """A value in the setting's type; lists and pairs as JSON. The range is for ``GenerationConfig`` to check.

    Raises:
        ConfigError: the text is no such value.
    """
    default = getattr(_DEFAULTS, name)
    if name == "stop_strings":
        return (text,)
    if isinstance(default, str) or (name == "early_stopping" and text == "never"):
        return text
    if isinstance(default, bool):
        if text.lower() not in _TRUE | _FALSE:
            raise ConfigError(f"{name} must be true or false, not {text!r:.80}")
        return text.lower() in _TRUE
    if isinstance(default, tuple) or name == "exponential_decay_length_penalty":
        return _json(name, text)
    is_float = isinstance(default, float) or name == "max_time"
    try:
        return float(text) if is_float else int(text)
    except ValueError:
        kind = "a number" if is_float else "a whole number"
        raise ConfigError(f"{name} must be {kind}, not {text!r:.80}") from None


def _json(name: str, text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise ConfigError(f"{name} must be written as JSON, such as [1, 2], not {text!r:.80}") from None
