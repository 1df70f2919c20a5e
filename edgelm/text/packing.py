"""Long texts into parts that a model can take: whole pieces where they fit, and nothing left out."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence

from edgelm.errors import ContextLengthError

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
        ContextLengthError: a single character is above the limit.
    """
    small = list(_small_enough(pieces, size, limit))
    parts: list[str] = []
    start = 0
    while start < len(small):
        end = _end_of_part(small, start, size, limit)
        parts.append("".join(small[start:end]))
        start = end
    return parts


def _end_of_part(pieces: Sequence[str], start: int, size: Size, limit: int) -> int:
    """The end of a part that fits, and would not with one piece more.

    Steps that double, then halves: to measure a part after every piece would take time with its length's square.
    """

    def fits(end: int) -> bool:
        return size("".join(pieces[start:end])) <= limit

    low, high, step = start + 1, len(pieces) + 1, 1
    while low < len(pieces) and high > len(pieces):
        tried = min(low + step, len(pieces))
        low, high, step = (tried, high, 2 * step) if fits(tried) else (low, tried, step)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def _small_enough(pieces: Iterable[str], size: Size, limit: int) -> Iterator[str]:
    for piece in pieces:
        if size(piece) <= limit:
            yield piece
            continue
        words = [word for word in _WORDS.findall(piece) if word]
        smaller = words if len(words) > 1 else list(piece)
        if len(smaller) == 1:
            raise ContextLengthError(f"the character {piece!r} alone is above the limit of {limit}")
        yield from _small_enough(smaller, size, limit)
