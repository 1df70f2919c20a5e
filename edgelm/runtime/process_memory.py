"""The memory that this process may have for a model: what the caller allows, and what the machine leaves."""

from __future__ import annotations

from edgelm.config import RuntimeConfig
from edgelm.runtime.fitting import Limit
from edgelm.runtime.memory import INTERPRETER_AND_LIBRARIES, Budget
from edgelm.runtime.usable_memory import resident_memory, usable_memory


class ProcessMemory:
    """What holds for one model.

    Args:
        runtime: its ``max_memory`` and ``memory_check``.
        beside: bytes that the process has already and that the model's own need counts: of a draft model.
    """

    def __init__(self, runtime: RuntimeConfig, *, beside: int = 0) -> None:
        self._most = runtime.max_memory
        self._checks_machine = runtime.memory_check
        self._held = max(0, resident_memory() - INTERPRETER_AND_LIBRARIES - beside)

    @property
    def limited(self) -> bool:
        """Whether the caller set a limit."""
        return self._most is not None

    def limit(self) -> Limit:
        """The tighter one right now of the caller's limit and what the machine leaves."""
        usable = usable_memory() if self._checks_machine else None
        if usable is not None and (self._most is None or usable.nbytes < self._most):
            return Limit(usable.nbytes, usable.source, self._held)
        return Limit(self._most, held=self._held)

    def check(self, need: Budget) -> None:
        """Refuses a need that is above it.

        Raises:
            MemoryLimitError: it is.
        """
        self.limit().check(need)
