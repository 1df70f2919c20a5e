"""Lends decoders to generations, and remembers what their KV caches hold: a prompt that continues an earlier one is
prefilled only from where they part.

Each generation has a decoder to itself, so several may run at a time, also within one thread.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from queue import SimpleQueue
from weakref import WeakSet

import numpy as np
from numpy.typing import NDArray

from edgelm.errors import ClosedError
from edgelm.runtime.decoder import Decoder

Ids = NDArray[np.int64]


@dataclass(eq=False)
class LentDecoder:
    """A decoder on loan.

    Attributes:
        decoder: it.
        cached: how many tokens of the prompt its KV cache holds already.
        tokens: for how many, prompt and answer, it was lent.
    """

    decoder: Decoder
    cached: int
    tokens: int


@dataclass(eq=False)
class _Idle:
    decoder: Decoder
    ids: Ids


@dataclass(eq=False)
class SequencePool:
    """Decoders of one session.

    Args:
        new: makes a decoder with an empty cache.
        keep: decoders that are kept, with their caches, while no generation uses them.
    """

    new: Callable[[], Decoder]
    keep: int = 1
    _idle: list[_Idle] = field(default_factory=list)
    _lent: WeakSet[LentDecoder] = field(default_factory=WeakSet)
    _ended: SimpleQueue[tuple[LentDecoder, Ids | None]] = field(default_factory=SimpleQueue)
    _closed: bool = False
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def borrow(self, prompt: Ids, tokens: int) -> LentDecoder:
        """The decoder that holds most of the prompt, rewound to what they share; at least one token is left to prefill.

        Args:
            prompt: (T,) token ids.
            tokens: how many the sequence may come to, prompt and answer.

        Raises:
            ClosedError: the pool is closed.
        """
        with self._locked():
            if self._closed:
                raise ClosedError("the model is closed")
            best = max(self._idle, key=lambda idle: _common_prefix(idle.ids, prompt), default=None)
            if best is not None:
                self._idle.remove(best)
                lent = LentDecoder(best.decoder, min(_common_prefix(best.ids, prompt), max(len(prompt) - 1, 0)), tokens)
                lent.decoder.rewind(lent.cached)
            else:
                lent = LentDecoder(self.new(), 0, tokens)
            self._lent.add(lent)
        return lent

    def give_back(self, lent: LentDecoder, ids: Sequence[int] | Ids) -> None:
        """Ends a loan; ``ids`` are the tokens that were computed, of which the cache holds its length."""
        self._ended.put((lent, np.array(ids[: lent.decoder.length], np.int64)))
        self._settle()

    def discard(self, lent: LentDecoder) -> None:
        """Ends a loan whose cache is not to be trusted any more."""
        self._ended.put((lent, None))
        self._settle()

    def demand(self) -> tuple[int, int]:
        """How many sequences there are, and for how many tokens in all their caches have, or will have, room."""
        with self._locked():
            tokens = [max(lent.tokens, lent.decoder.cache.capacity) for lent in self._lent]
            tokens += [idle.decoder.cache.capacity for idle in self._idle]
        return len(tokens), sum(tokens)

    def close(self) -> None:
        """Cancels what runs and frees the caches; may be called twice."""
        with self._locked():
            self._closed = True
            self._idle.clear()
            for lent in self._lent:
                lent.decoder.cancel()

    @contextmanager
    def _locked(self) -> Iterator[None]:
        try:
            with self._lock:
                self._take_back()
                yield
        finally:
            self._settle()

    def _settle(self) -> None:
        """Takes decoders back as soon as nobody holds the lock, and never waits for it.

        An abandoned generation ends in a destructor, which may interrupt the very thread that holds the lock; so loans
        end in a queue, and whoever lets go of the lock looks at it again.
        """
        while not self._ended.empty() and self._lock.acquire(blocking=False):
            try:
                self._take_back()
            finally:
                self._lock.release()

    def _take_back(self) -> None:
        while not self._ended.empty():
            lent, ids = self._ended.get_nowait()
            self._lent.discard(lent)
            if ids is not None and not self._closed:
                self._idle.append(_Idle(lent.decoder, ids))
        del self._idle[: max(0, len(self._idle) - self.keep)]


def _common_prefix(a: Ids, b: Ids) -> int:
    length = min(len(a), len(b))
    different = np.nonzero(a[:length] != b[:length])[0]
    return int(different[0]) if len(different) else length
