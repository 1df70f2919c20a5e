"""The tokens of a run, prompt and answer, and the check that a prompt is made of tokens."""

from __future__ import annotations

import numbers
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edgelm.errors import ContextLengthError, PromptError
from edgelm.generation.logits_processors import Ids


class TokenHistory:
    """All tokens so far in one buffer of fixed size, so that a step appends without copying."""

    def __init__(self, prompt: Ids, max_new_tokens: int) -> None:
        self._buffer: Ids = np.empty(prompt.size + max_new_tokens, np.int64)
        self._buffer[: prompt.size] = prompt
        self._readable = self._buffer.view()
        self._readable.flags.writeable = False
        self._length = prompt.size

    @property
    def ids(self) -> Ids:
        """Prompt and answer, (T,) int64: a read-only view, which later tokens do not change."""
        return self._readable[: self._length]

    @property
    def room(self) -> int:
        """Tokens that the answer may still get."""
        return self._buffer.size - self._length

    @property
    def is_full(self) -> bool:
        """Whether the answer has reached its largest length."""
        return self._length == self._buffer.size

    def append(self, token: int) -> None:
        """Adds the newest token."""
        self._buffer[self._length] = token
        self._length += 1


def check_prompt(ids: Sequence[int] | NDArray[np.int64], vocab_size: int) -> Ids:
    """The prompt as a new (T,) int64 array.

    Raises:
        PromptError: it is no list of token ids, empty or not flat, or a value is no token; names its position and
            value.
    """
    if isinstance(ids, (str, bytes, bytearray, memoryview)) or not isinstance(ids, (Sequence, np.ndarray)):
        raise PromptError(f"the prompt must be a text or a list of token ids, not {type(ids).__name__}")
    if isinstance(ids, np.ndarray) and ids.ndim != 1:
        raise PromptError(f"the prompt's token ids must be one-dimensional, not of shape {ids.shape}")
    if len(ids) == 0:
        raise PromptError("the prompt is empty; it needs at least one token, for example the model's BOS token")
    if not (isinstance(ids, np.ndarray) and ids.dtype.kind in "iu"):
        for position, token in enumerate(ids):
            if isinstance(token, (bool, np.bool_)) or not isinstance(token, numbers.Integral):
                raise PromptError(f"the prompt's token at position {position} is {token!r:.80}; token ids are integers")
            _check_range(token, position, vocab_size)
    elif ids.min() < 0 or ids.max() >= vocab_size:
        position = int(np.flatnonzero((ids < 0) | (ids >= vocab_size))[0])
        _check_range(ids[position], position, vocab_size)
    return np.array(ids, dtype=np.int64)


def _check_range(token: numbers.Integral, position: int, vocab_size: int) -> None:
    if not 0 <= int(token) < vocab_size:
        raise PromptError(
            f"the prompt's token at position {position} is {token}; token ids are from 0 to {vocab_size - 1}"
        )


def check_length(tokens: int, context: int) -> None:
    """Refuses a prompt that leaves no room for an answer.

    Raises:
        ContextLengthError: it does; gives both counts.
    """
    if tokens >= context:
        raise ContextLengthError(
            f"the prompt has {tokens} tokens, but the context window is {context} tokens, "
            "and the answer needs at least one of them"
        )
