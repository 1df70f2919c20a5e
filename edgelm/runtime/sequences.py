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
from typing import Protocol
from weakref import WeakSet

import numpy as np
from numpy.typing import NDArray

from edgelm.errors import ClosedError
from edgelm.runtime.memory import Needs
from edgelm.runtime.single_row import Rows

Ids = NDArray[np.int64]


class Cache(Protocol):
    """What a decoder remembers of its tokens."""

    @property
    def capacity(self) -> int:
        """Tokens for which memory is there."""
        ...


class SequenceDecoder(Protocol):
    """A decoder of one sequence, ours or of graphs made by others; see ``decoder.Decoder``."""

    context_length: int
    vocab_size: int

    @property
    def cache(self) -> Cache:
        """What it remembers."""
        ...

    @property
    def length(self) -> int:
        """Tokens in the cache."""
        ...

    def prefill(self, ids: Sequence[int] | Ids) -> NDArray[np.float32]:
        """Appends tokens; returns the last one's logits."""
        ...

    def step(self, token: int) -> NDArray[np.float32]:
        """Appends one token; returns its logits."""
        ...

    def all_logits(self, ids: Sequence[int] | Ids) -> Iterator[NDArray[np.float32]]:
        """Appends tokens; yields the logits of every one."""
        ...

    def rewind(self, length: int) -> None:
        """Forgets all but the first tokens."""
        ...

    def reserve(self, tokens: int) -> None:
        """Allocates the cache now."""
        ...

    def cancel(self) -> None:
        """Ends the run in progress, from another thread."""
        ...


@dataclass(eq=False)
class LentDecoder:
    """A decoder on loan.

    Attributes:
        decoder: it.
        cached: how many tokens of the prompt its KV cache holds already.
        tokens: for how many, prompt and answer, it was lent.
    """

    decoder: SequenceDecoder
    cached: int
    tokens: int

    @property
    def needs(self) -> Needs:
        """What its cache has, or will have, room for."""
        return _needs_of(max(self.tokens, self.decoder.cache.capacity))


@dataclass(eq=False)
class LentRows:
    """A decoder of several rows on loan, for one generation that nothing is kept of.

    Attributes:
        decoder: it.
        needs: what it will come to hold.
        cached: none of the prompt's tokens.
    """

    decoder: Rows
    needs: Needs
    cached: int = 0


Loan = LentDecoder | LentRows


@dataclass(eq=False)
class _Idle:
    decoder: SequenceDecoder
    ids: Ids


@dataclass(eq=False)
class SequencePool:
    """Decoders of one session.

    Args:
        new: makes a decoder with an empty cache.
        keep: decoders that are kept, with their caches, while no generation uses them.
    """

    new: Callable[[], SequenceDecoder]
    keep: int = 1
    _idle: list[_Idle] = field(default_factory=list)
    _lent: WeakSet[Loan] = field(default_factory=WeakSet)
    _ended: SimpleQueue[tuple[Loan, _Idle | None]] = field(default_factory=SimpleQueue)
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
            self._check_open()
            best = max(self._idle, key=lambda idle: _common_prefix(idle.ids, prompt), default=None)
            if best is not None:
                self._idle.remove(best)
                lent = LentDecoder(best.decoder, min(_common_prefix(best.ids, prompt), max(len(prompt) - 1, 0)), tokens)
                lent.decoder.rewind(lent.cached)
            else:
                lent = LentDecoder(self.new(), 0, tokens)
            self._lent.add(lent)
        return lent

    def lend_rows(self, decoder: Rows, needs: Needs) -> LentRows:
        """Enters a decoder of several rows, so that it is counted, and stopped when the model is closed.

        Raises:
            ClosedError: the pool is closed.
        """
        lent = LentRows(decoder, needs)
        with self._locked():
            self._check_open()
            self._lent.add(lent)
        return lent

    def end(self, lent: Loan, ids: Sequence[int] | Ids | None) -> None:
        """Ends a loan; ``ids``: the tokens of which the cache holds its length, None if it is not to be trusted."""
        if ids is None or isinstance(lent, LentRows):
            self.discard(lent)
        else:
            self.give_back(lent, ids)

    def give_back(self, lent: LentDecoder, ids: Sequence[int] | Ids) -> None:
        """Ends a loan; ``ids`` are the tokens that were computed, of which the cache holds its length."""
        self._ended.put((lent, _Idle(lent.decoder, np.array(ids[: lent.decoder.length], np.int64))))
        self._settle()

    def discard(self, lent: Loan) -> None:
        """Ends a loan whose cache is not to be trusted any more, or not to be kept."""
        self._ended.put((lent, None))
        self._settle()

    def needs(self) -> Needs:
        """What all decoders, lent and kept, have room for, or will have."""
        with self._locked():
            parts = [lent.needs for lent in self._lent]
            parts += [_needs_of(idle.decoder.cache.capacity) for idle in self._idle]
        return sum(parts, Needs(tokens=0))

    def forget(self) -> bool:
        """Frees the caches that no generation uses; returns whether there was one."""
        with self._locked():
            had = bool(self._idle)
            self._idle.clear()
        return had

    def close(self) -> None:
        """Cancels what runs and frees the caches; may be called twice."""
        with self._locked():
            self._closed = True
            self._idle.clear()
            for lent in self._lent:
                lent.decoder.cancel()

    def _check_open(self) -> None:
        if self._closed:
            raise ClosedError("the model is closed")

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
            lent, idle = self._ended.get_nowait()
            self._lent.discard(lent)
            if idle is not None and not self._closed:
                self._idle.append(idle)
        del self._idle[: max(0, len(self._idle) - self.keep)]


def _needs_of(tokens: int) -> Needs:
    return Needs(tokens=tokens, sequences=1, rows=1, longest=tokens)


def _common_prefix(a: Ids, b: Ids) -> int:
    length = min(len(a), len(b))
    different = np.nonzero(a[:length] != b[:length])[0]
    return int(different[0]) if len(different) else length
