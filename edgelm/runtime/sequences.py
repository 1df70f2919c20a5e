"""Lends decoders to generations, and remembers what their KV caches hold: a prompt that continues an earlier one is
prefilled only from where they part.

Each generation has a decoder to itself, so several may run at a time, also within one thread.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from edgelm.errors import ClosedError
from edgelm.runtime.decoder import Decoder

Ids = NDArray[np.int64]


@dataclass(eq=False)
class LentDecoder:
    """A decoder on loan. ``cached``: how many tokens of the prompt its KV cache holds already."""

    decoder: Decoder
    cached: int


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
    _lent: list[Decoder] = field(default_factory=list)
    _closed: bool = False
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def borrow(self, prompt: Sequence[int] | Ids) -> LentDecoder:
        """The decoder that holds most of the prompt, rewound to what they share; at least one token is left to prefill.

        Raises:
            ClosedError: the pool is closed.
        """
        ids = np.asarray(prompt, np.int64)
        with self._lock:
            if self._closed:
                raise ClosedError("the model is closed")
            if self._idle:
                best = max(self._idle, key=lambda idle: _common_prefix(idle.ids, ids))
                self._idle.remove(best)
                lent = LentDecoder(best.decoder, min(_common_prefix(best.ids, ids), max(len(ids) - 1, 0)))
                lent.decoder.rewind(lent.cached)
            else:
                lent = LentDecoder(self.new(), 0)
            self._lent.append(lent.decoder)
        return lent

    def give_back(self, lent: LentDecoder, ids: Sequence[int] | Ids) -> None:
        """Ends a loan; ``ids`` are the tokens that were computed, of which the cache holds its length."""
        decoder = lent.decoder
        with self._lock:
            self._lent.remove(decoder)
            if not self._closed:
                self._idle.append(_Idle(decoder, np.array(ids[: decoder.length], np.int64)))
                del self._idle[: -self.keep]

    def discard(self, lent: LentDecoder) -> None:
        """Ends a loan whose cache is not to be trusted any more."""
        with self._lock:
            self._lent.remove(lent.decoder)

    def close(self) -> None:
        """Cancels what runs and frees the caches; may be called twice."""
        with self._lock:
            self._closed = True
            self._idle.clear()
            for decoder in self._lent:
                decoder.cancel()


def _common_prefix(a: Ids, b: Ids) -> int:
    length = min(len(a), len(b))
    different = np.nonzero(a[:length] != b[:length])[0]
    return int(different[0]) if len(different) else length
