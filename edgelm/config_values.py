"""The forms in which settings of a generation may be given; each refusal is a ConfigError that names the setting."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from edgelm.checks import check_float, check_int, shown
from edgelm.errors import ConfigError

MAX_STOP_STRINGS = 64
MAX_STOP_LENGTH = 1024
MAX_BAD_WORDS = 1 << 16
# Wider than OpenAI's ±100; beyond, float32 logits lose what distinguishes them.
_MOST_BIAS = 1e6
# What NumPy's arrays of ids hold on every platform; no vocabulary comes near.
_MOST_TOKEN_ID = 2**31 - 1


def near_or_all(name: str, known: Sequence[str], listed: Sequence[str] | None = None) -> str:
    """What a mistyped name was meant to be, perhaps; without anything near, all names, or those that are ``listed``."""
    import difflib  # only where something is refused

    near = difflib.get_close_matches(name, known, n=2)
    return f"did you mean {' or '.join(near)}?" if near else f"known are: {', '.join(listed or known)}"


def as_tuple(name: str, value: object) -> tuple[object, ...]:
    """A tuple of several values, or of one."""
    if isinstance(value, (int, str)):
        return (value,)
    if isinstance(value, Sequence):
        return tuple(value)
    raise ConfigError(f"{name} must be a value or a list of values, not {shown(value)}")


def as_words(name: str, value: object) -> tuple[tuple[int, ...], ...]:
    """Lists of token ids, none of them empty."""
    words = as_tuple(name, value)
    if len(words) > MAX_BAD_WORDS:
        raise ConfigError(f"{name} takes at most {MAX_BAD_WORDS} words, not {len(words)}")
    return tuple(_as_word(name, word) for word in words)


def as_sequence_bias(name: str, value: object) -> tuple[tuple[tuple[int, ...], float], ...]:
    """Token ids → bias, from a mapping or from pairs, as in transformers' files; of equal sequences the last holds."""
    biases: dict[tuple[int, ...], float] = {}
    for pair in _pairs(name, value):
        check_bias(name, pair[1])
        biases[_as_word(name, pair[0])] = float(pair[1])
    return tuple(biases.items())


def as_logit_bias(name: str, value: object) -> tuple[tuple[int, float], ...]:
    """Token id → bias; ids may be strings of digits, as JSON objects have them."""
    biases: dict[int, float] = {}
    for token, bias in _pairs(name, value):
        # Python reads numbers of some thousand digits, and raises beyond; no token has 20.
        token = int(token) if isinstance(token, str) and len(token) < 20 and token.isdecimal() else token
        check_token(name, token)
        check_bias(name, bias)
        biases[token] = float(bias)
    return tuple(biases.items())


def as_decay(name: str, value: object) -> tuple[int, float]:
    """(tokens of the answer before it begins, factor)."""
    if not isinstance(value, Sequence) or isinstance(value, str) or len(value) != 2:
        raise ConfigError(f"{name} must be (start, factor), not {shown(value)}")
    check_int(f"the start of {name}", value[0], 0)
    check_float(f"the factor of {name}", value[1], above=0.0)
    return int(value[0]), float(value[1])


def check_token(name: str, value: object) -> None:
    """Refuses what is no token id of any vocabulary."""
    check_int(name, value, 0)
    if isinstance(value, int) and value > _MOST_TOKEN_ID:
        raise ConfigError(f"{name} must be a token id, not {shown(value)}")


def check_bias(name: str, value: object) -> None:
    """Refuses what is no number from -10^6 to 10^6 or -inf, which stands for "never"."""
    if value != -math.inf:
        check_float(name, value, least=-_MOST_BIAS, most=_MOST_BIAS)


def check_stops(stops: tuple[str, ...]) -> None:
    """Refuses too many stop strings, empty and very long ones."""
    if len(stops) > MAX_STOP_STRINGS:
        raise ConfigError(f"stop_strings takes at most {MAX_STOP_STRINGS} strings, not {len(stops)}")
    for stop in stops:
        if not isinstance(stop, str) or not 0 < len(stop) <= MAX_STOP_LENGTH:
            raise ConfigError(f"a stop string must have 1 to {MAX_STOP_LENGTH} characters, not {stop!r:.80}")


def _as_word(name: str, word: object) -> tuple[int, ...]:
    if not isinstance(word, Sequence) or isinstance(word, str) or not word:
        raise ConfigError(f"{name} must be lists of token ids, not {shown(word)}")
    for token in word:
        check_token(name, token)
    return tuple(word)


def _pairs(name: str, value: object) -> list[tuple[Any, Any]]:
    items = list(value.items()) if isinstance(value, Mapping) else value
    if not isinstance(items, Sequence) or isinstance(items, str) or not all(map(_is_pair, items)):
        raise ConfigError(f"{name} must be a mapping, or a list of pairs, not {shown(value)}")
    if len(items) > MAX_BAD_WORDS:
        raise ConfigError(f"{name} takes at most {MAX_BAD_WORDS} biases, not {len(items)}")
    return [(item[0], item[1]) for item in items]


def _is_pair(item: object) -> bool:
    return isinstance(item, Sequence) and not isinstance(item, str) and len(item) == 2
