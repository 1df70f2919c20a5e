"""Long texts into parts that a model can take: whole pieces where they fit, and nothing left out."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator

# What a piece that is too long is cut into: words with the space behind them, at last single characters.
_WORDS = re.compile(r"\S*\s*")

Size = Callable[[str], int]
"""How much of the limit a text takes, such as its number of tokens."""


def pack(pieces: Iterable[str], size: Size, limit: int) -> list[str]:
    """Joins neighbouring pieces as long as they fit; the parts together are the pieces together.

    A piece that alone is too long is cut between words, and a word between characters.

    Args:
        pieces: such as sentences, each with the white space behind it.
        size: of a text; it need not be exactly the sum of its pieces'.
        limit: most that a part may have, at least what a single character takes.

    Raises:
        ValueError: a single character is above the limit.
    """
    parts: list[str] = []
    waiting = deque(_small_enough(pieces, size, limit))
    while waiting:
        taken: list[str] = []
        total = 0
        # What is written together is a little shorter or longer than apart: only near the limit is it measured.
        while waiting and (total + size(waiting[0]) <= limit or size("".join([*taken, waiting[0]])) <= limit):
            taken.append(waiting.popleft())
            total += size(taken[-1])
        while len(taken) > 1 and size("".join(taken)) > limit:
            waiting.appendleft(taken.pop())
        parts.append("".join(taken))
    return parts


def _small_enough(pieces: Iterable[str], size: Size, limit: int) -> Iterator[str]:
    for piece in pieces:
        if size(piece) <= limit:
            yield piece
            continue
        words = [word for word in _WORDS.findall(piece) if word]
        smaller = words if len(words) > 1 else list(piece)
        if len(smaller) == 1:
            raise ValueError(f"the character {piece!r} alone is above the limit of {limit}")
        yield from _small_enough(smaller, size, limit)
