"""Leaves the oldest turns out of a conversation that has outgrown the context window."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

Message = Mapping[str, Any]

# Who writes what holds for the whole conversation, and is always kept.
_LASTING = ("system", "developer")


class FittedChat(NamedTuple):
    """A conversation as the model is shown it.

    Attributes:
        ids: its tokens.
        dropped_turns: turns that were left out, each a question with all that follows it up to the next.
        dropped_tokens: their tokens.
    """

    ids: list[int]
    dropped_turns: int = 0
    dropped_tokens: int = 0


def drop_oldest(
    messages: Sequence[Message], encode: Callable[[Sequence[Message]], list[int]], *, most: int, block: int
) -> FittedChat:
    """Leaves out as few of the oldest turns as fit into ``most`` tokens, but at least ``block`` tokens at a time.

    So most of the time the next turn leaves out the same ones, and goes on from the same cache. What was said first by
    the system stays, and the last turn. Where that alone is too long, it is for others to refuse.
    """
    ids = encode(messages)
    if len(ids) <= most:
        return FittedChat(ids)
    excess = len(ids) - most
    goal = len(ids) - -(-excess // block) * block
    first = next((i for i, message in enumerate(messages) if _role(message) not in _LASTING), len(messages))
    starts = [i for i in range(first, len(messages)) if _role(messages[i]) == "user"]

    @functools.cache
    def without(turns: int) -> list[int]:
        return encode([*messages[:first], *messages[starts[turns] :]])

    low, high = 0, max(len(starts) - 1, 0)  # as many turns as may go
    while low < high:
        middle = (low + high) // 2
        if len(without(middle)) <= goal:
            high = middle
        else:
            low = middle + 1
    if low == 0:
        return FittedChat(ids)
    return FittedChat(without(low), low, len(ids) - len(without(low)))


def _role(message: Message) -> object:
    return message.get("role") if isinstance(message, Mapping) else None
