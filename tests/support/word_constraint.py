"""A constraint without a grammar: the answer is one of some sequences of tokens."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray


class OneOf:
    """Keeps what was done to it and to its copies in ``log``."""

    def __init__(self, words: Iterable[Sequence[int]], size: int = 16, begun: Sequence[int] = (), log=None) -> None:
        self.words = [tuple(word) for word in words]
        self.size = size
        self.begun = tuple(begun)
        self.log: list[str] = [] if log is None else log

    @property
    def may_end(self) -> bool:
        return self.begun in self.words

    def allowed(self) -> NDArray[np.bool_]:
        self.log.append("allowed")
        mask = np.zeros(self.size, np.bool_)
        mask[[word[len(self.begun)] for word in self._open()]] = True
        return mask

    def advance(self, token: int) -> bool:
        self.log.append("advance")
        if not any(word[len(self.begun)] == token for word in self._open()):
            return False
        self.begun = (*self.begun, token)
        return True

    def rewind(self, count: int) -> None:
        if count:
            self.log.append(f"rewind {count}")
            self.begun = self.begun[:-count]

    def copy(self) -> OneOf:
        self.log.append("copy")
        return OneOf(self.words, self.size, self.begun, self.log)

    def _open(self) -> list[tuple[int, ...]]:
        """The words that go on."""
        length = len(self.begun)
        return [word for word in self.words if len(word) > length and word[:length] == self.begun]
