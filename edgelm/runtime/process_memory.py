"""The memory that this process may have for a model: what the caller allows, and what the machine leaves."""

from __future__ import annotations

import weakref
from dataclasses import replace
from itertools import count

from edgelm.bundle.manifest import Manifest
from edgelm.config import RuntimeConfig
from edgelm.errors import MemoryLimitError
from edgelm.runtime.fitting import LEAST_TOKENS, Beside, Fitting, Limit, fit_window, need_of, nothing_beside
from edgelm.runtime.memory import INTERPRETER_AND_LIBRARIES, Budget
from edgelm.runtime.usable_memory import resident_memory, usable_memory

_NUMBERS = count()
# Bytes of the models that are loaded, by their numbers: plain values, which need no lock.
_LOADED: dict[int, int] = {}


class ProcessMemory:
    """What holds for one model.

    Models that are loaded after it count until they are closed, or let go of. Those loaded before are in what the
    process held by then.

    Args:
        runtime: its settings.
        beside: bytes that the process has already and that the model's own need counts: of a draft model.
    """

    def __init__(self, runtime: RuntimeConfig, *, beside: int = 0) -> None:
        self._asked = runtime
        self._most = runtime.max_memory
        self._checks_machine = runtime.memory_check
        self._number = next(_NUMBERS)
        self._held_before = max(0, resident_memory() - INTERPRETER_AND_LIBRARIES - beside)
        weakref.finalize(self, _LOADED.pop, self._number, None).atexit = False

    @property
    def limited(self) -> bool:
        """Whether the caller set a limit."""
        return self._most is not None

    def limit(self) -> Limit:
        """The tighter one right now of the caller's limit and what the machine leaves."""
        usable = usable_memory() if self._checks_machine else None
        if usable is not None and (self._most is None or usable.nbytes < self._most):
            return Limit(usable.nbytes, usable.source, self._held())
        return Limit(self._most, held=self._held())

    def enter(self, need: Budget) -> None:
        """Counts what the model has from now on, whatever it is asked, for the models that were loaded before it."""
        _LOADED[self._number] = need.text + need.graph + need.weights

    def leave(self) -> None:
        """Counts it no more: it is closed. May be called twice."""
        _LOADED.pop(self._number, None)

    def check(self, need: Budget) -> None:
        """Refuses a need that is above it.

        Raises:
            MemoryLimitError: it is.
        """
        self.limit().check(need)

    def fit(self, manifest: Manifest, beside: Beside = nothing_beside) -> Fitting:
        """How the model is to be run; ``beside``: the bytes of a draft model.

        Where nobody set a limit, nothing is changed for the machine's sake: answers shall not depend on it.

        Raises:
            ConfigError: the context window asked for is longer than the model's.
            MemoryLimitError: it does not fit.
        """
        asked = self._asked
        if self.limited or asked.context_length == "auto":
            return fit_window(manifest, asked, limit=self.limit(), beside=beside)
        fitting = fit_window(manifest, asked, limit=Limit())
        least = need_of(manifest, fitting.runtime, min(LEAST_TOKENS, fitting.context_length))
        try:
            self.check(replace(least, draft=beside(LEAST_TOKENS)))
        except MemoryLimitError as error:
            raise MemoryLimitError(
                f"{error}; max_memory (--max-memory) has settings changed to fit, and memory_check=False "
                "(--no-memory-check) loads it all the same"
            ) from None
        return fitting

    def _held(self) -> int:
        """Bytes that the process has beside this model."""
        later = (nbytes for number, nbytes in list(_LOADED.items()) if number > self._number)
        return self._held_before + sum(later)
