"""Lends decoders to generations, and remembers what their KV caches hold: a prompt that continues an earlier one is
prefilled only from where they part.

Each generation has a decoder to itself, so several may run at a time, also within one thread. What is kept from
earlier ones goes, least recently used first, when a new one needs the memory.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from queue import SimpleQueue
from weakref import WeakSet

import numpy as np

from edgelm.errors import ClosedError, MemoryLimitError
from edgelm.runtime.kept_caches import KeptCache, Plan, plan_for
from edgelm.runtime.kv_cache import KVCache
from edgelm.runtime.memory import Needs
from edgelm.runtime.sequence_decoder import Ids
from edgelm.runtime.sequence_decoder import SequenceDecoder as SequenceDecoder  # others look for it here
from edgelm.runtime.single_row import Rows
from edgelm.runtime.sliding import SlidingWindow


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
    def dropped(self) -> int:
        """Tokens of the sequence that its cache holds no more."""
        cache = self.decoder.cache
        return cache.dropped if isinstance(cache, KVCache) else 0

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
        cached, dropped: none of its tokens.
    """

    decoder: Rows
    needs: Needs
    cached: int = 0
    dropped: int = 0


Loan = LentDecoder | LentRows


def _no_limit(needs: Needs) -> None:
    """Where no memory limit was set."""


@dataclass(eq=False)
class SequencePool:
    """Decoders of one session.

    Args:
        new: makes a decoder with an empty cache.
        keep: decoders that are kept, with their caches, while no generation uses them.
        check: raises MemoryLimitError where so much does not fit into memory.
    """

    new: Callable[[], SequenceDecoder]
    keep: int = 1
    check: Callable[[Needs], None] = _no_limit
    _kept: list[KeptCache] = field(default_factory=list)  # least recently used first
    _lent: WeakSet[Loan] = field(default_factory=WeakSet)
    _ended: SimpleQueue[tuple[Loan, KeptCache | None]] = field(default_factory=SimpleQueue)
    _closed: bool = False
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def borrow(self, prompt: Ids, tokens: int, window: SlidingWindow | None = None) -> LentDecoder:
        """A decoder that holds as much of the prompt as any that is kept; at least one token is left to prefill.

        Args:
            prompt: (T,) token ids.
            tokens: how many the cache may come to hold of prompt and answer.
            window: how the sequence goes on past the context window; None: it does not.

        Raises:
            ClosedError: the pool is closed.
            MemoryLimitError: they do not fit beside what is lent already.
        """
        with self._locked():
            self._check_open()
            plan = plan_for(self._kept, self.keep, prompt, tokens, window)
            lent = self._begin(self._afford(plan))
            self._lent.add(lent)
        return lent

    def borrow_kept(self, ids: Ids | None) -> tuple[LentDecoder, Ids] | None:
        """The kept decoder, as it is, that holds all of ``ids``, or the one used last; with what it holds.

        Raises:
            ClosedError: the pool is closed.
        """
        with self._locked():
            self._check_open()
            for kept in reversed(self._kept):
                if ids is None or (kept.dropped == 0 and kept.spares(ids, None) == len(ids)):
                    self._kept.remove(kept)
                    lent = LentDecoder(kept.decoder, len(kept.ids), kept.decoder.length)
                    self._lent.add(lent)
                    return lent, kept.ids
        return None

    def borrow_longest(self, ids: Ids) -> tuple[LentDecoder, Ids, int] | None:
        """The kept decoder, as it is, that holds the longest beginning of ``ids``; with what it holds, and how long.

        Raises:
            ClosedError: the pool is closed.
        """
        with self._locked():
            self._check_open()
            longest = max(self._kept, key=lambda kept: kept.beginning_of(ids), default=None)
            if longest is None or not longest.beginning_of(ids):
                return None
            self._kept.remove(longest)
            lent = LentDecoder(longest.decoder, len(longest.ids), longest.decoder.length)
            self._lent.add(lent)
        return lent, longest.ids, longest.beginning_of(ids)

    def lend_rows(self, decoder: Rows, needs: Needs) -> LentRows:
        """Enters a decoder of several rows, so that it is counted, and stopped when the model is closed.

        Raises:
            ClosedError: the pool is closed.
            MemoryLimitError: they do not fit beside what is lent already.
        """
        lent = LentRows(decoder, needs)
        with self._locked():
            self._check_open()
            self._make_room(needs)
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
        computed = lent.decoder.length + lent.dropped
        self._ended.put((lent, KeptCache(lent.decoder, np.array(ids[:computed], np.int64))))
        self._settle()

    def discard(self, lent: Loan) -> None:
        """Ends a loan whose cache is not to be trusted any more, or not to be kept."""
        self._ended.put((lent, None))
        self._settle()

    def needs(self) -> Needs:
        """What all decoders, lent and kept, have room for, or will have."""
        with self._locked():
            return self._needs(self._kept)

    def forget(self) -> None:
        """Frees the caches that no generation uses."""
        with self._locked():
            self._kept.clear()

    def close(self) -> None:
        """Cancels what runs and frees the caches; may be called twice."""
        with self._locked():
            self._closed = True
            self._kept.clear()
            for lent in self._lent:
                lent.decoder.cancel()

    def _check_open(self) -> None:
        if self._closed:
            raise ClosedError("the model is closed")

    def _needs(self, kept: Sequence[KeptCache]) -> Needs:
        parts = [lent.needs for lent in self._lent]
        parts += [_needs_of(each.decoder.cache.capacity) for each in kept]
        return sum(parts, Needs(tokens=0))

    def _afford(self, plan: Plan) -> Plan:
        """The plan that memory allows; the cache that it continues or moves is not kept any more.

        What needs more memory than it is worth goes first: room that a short prompt would inherit from a long one.
        """
        self.check(self._needs([]) + _needs_of(plan.tokens))  # or nothing that is kept is in the way
        if plan.use == "copy" and not self._fits([*self._kept], plan):
            while self._kept[0] is not plan.kept and not self._fits(self._kept, plan):
                del self._kept[0]
            if not self._fits(self._kept, plan):
                plan = plan._replace(use="move")
        if plan.kept is not None and plan.use != "copy":
            self._kept.remove(plan.kept)
            if plan.capacity > plan.tokens and not self._fits(self._kept, plan):
                plan = plan._replace(use="move") if plan.kept.can_be_copied else Plan("nothing", None, 0, plan.tokens)
        self._make_room(_needs_of(plan.capacity))
        if plan.use in ("nothing", "copy"):  # one more, so the last to be kept would go when it comes back
            del self._kept[: max(0, len(self._kept) + 1 - self.keep)]
        return plan

    def _fits(self, kept: Sequence[KeptCache], plan: Plan) -> bool:
        try:
            self.check(self._needs(kept) + _needs_of(plan.capacity))
        except MemoryLimitError:
            return False
        return True

    def _make_room(self, needs: Needs) -> None:
        """Lets go of kept caches until there is room, unless there is none without them either."""
        self.check(self._needs([]) + needs)
        while True:
            try:
                return self.check(self._needs(self._kept) + needs)
            except MemoryLimitError:
                if not self._kept:  # the machine's memory has become short since the check above
                    raise
                del self._kept[0]

    def _begin(self, plan: Plan) -> LentDecoder:
        if plan.kept is None:
            return LentDecoder(self.new(), 0, plan.tokens)
        source, length = plan.kept.decoder, plan.kept.held(plan.shared)
        if plan.use == "continue":
            source.rewind(length)
            return LentDecoder(source, plan.shared, plan.tokens)
        decoder = self.new()
        decoder.reserve(max(plan.tokens, length))
        if isinstance(decoder.cache, KVCache) and isinstance(source.cache, KVCache):
            decoder.cache.take(source.cache, length, keep_source=plan.use == "copy")
        return LentDecoder(decoder, plan.shared, plan.tokens)

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
            lent, kept = self._ended.get_nowait()
            self._lent.discard(lent)
            if kept is not None and len(kept.ids) and not self._closed:
                self._kept.append(kept)
        del self._kept[: max(0, len(self._kept) - self.keep)]


def _needs_of(tokens: int) -> Needs:
    return Needs(tokens=tokens, sequences=1, rows=1, longest=tokens)
