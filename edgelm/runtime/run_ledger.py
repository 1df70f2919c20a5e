"""What the calls in progress of one model take in memory, so that those of several threads stay within it together.

A call keeps its results until it ends, and has one run after another. It begins once its results, and the largest run
of all that have begun, fit beside the results of the others; so each of them can always have its next run, if need be
alone, and nothing waits for ever. A run begins once it fits beside those in progress, or none is in progress.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, eq=False)
class Call:
    """What a call takes.

    Attributes:
        held: bytes of its results.
        each: bytes of each of its runs besides.
    """

    held: int
    each: int


@dataclass(slots=True)
class _Line:
    """What waits for its turn, in the order in which it came, and what is in progress."""

    waiting: deque[Call] = field(default_factory=deque)
    begun: set[Call] = field(default_factory=set)


class RunLedger:
    """The calls of one model; for many threads.

    Attributes:
        room: bytes that results and runs may take in all, by whoever looked last; None: as many as they need.
    """

    def __init__(self) -> None:
        self.room: int | None = None
        self._changed = threading.Condition()
        self._calls, self._runs = _Line(), _Line()

    def call(self, call: Call) -> AbstractContextManager[None]:
        """Waits until a call may begin, which it does at once where there is no other, and counts it to its end.

        It must not wait for other calls meanwhile.
        """
        return self._turn(self._calls, call, lambda: self._of_results(call) + max(self._of_runs(self._calls, call)))

    def run(self, call: Call) -> AbstractContextManager[None]:
        """The same of a run of a call that has begun."""
        return self._turn(self._runs, call, lambda: self._of_results() + sum(self._of_runs(self._runs, call)))

    def _of_results(self, *new: Call) -> int:
        return sum(call.held for call in (*self._calls.begun, *new))

    def _of_runs(self, line: _Line, new: Call) -> Iterator[int]:
        return (call.each for call in (*line.begun, new))

    @contextmanager
    def _turn(self, line: _Line, call: Call, needed: Callable[[], int]) -> Iterator[None]:
        def may_begin() -> bool:
            if line.waiting[0] is not call:
                return False  # else a large one would wait as long as there are small ones
            return not line.begun or self.room is None or needed() <= self.room

        try:
            with self._changed:
                line.waiting.append(call)
                self._changed.wait_for(may_begin)
                line.waiting.popleft()
                line.begun.add(call)
                self._changed.notify_all()  # there may be room for the next as well
            yield
        finally:  # also where the wait was interrupted
            with self._changed:
                if call in line.waiting:
                    line.waiting.remove(call)
                line.begun.discard(call)
                self._changed.notify_all()
