"""Whichever is tighter: what the caller allows, or what the machine leaves."""

from __future__ import annotations

import pytest

from edgelm.config import RuntimeConfig
from edgelm.errors import MemoryLimitError
from edgelm.runtime import process_memory as module
from edgelm.runtime.fitting import Limit
from edgelm.runtime.memory import INTERPRETER_AND_LIBRARIES, MB, Budget
from edgelm.runtime.process_memory import ProcessMemory
from edgelm.runtime.usable_memory import MemoryBound


@pytest.fixture
def machine(monkeypatch):
    """A machine that leaves 500 MB to a process that has 10 MB more than its interpreter and libraries."""
    monkeypatch.setattr(module, "resident_memory", lambda: INTERPRETER_AND_LIBRARIES + 10 * MB)
    monkeypatch.setattr(module, "usable_memory", lambda: MemoryBound("the cage", 500 * MB))


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, Limit(500 * MB, "the cage", 10 * MB)),
        ({"max_memory": 600 * MB}, Limit(500 * MB, "the cage", 10 * MB)),
        ({"max_memory": 400 * MB}, Limit(400 * MB, "the limit", 10 * MB)),
        ({"max_memory": 600 * MB, "memory_check": False}, Limit(600 * MB, "the limit", 10 * MB)),
        ({"memory_check": False}, Limit(None, "the limit", 10 * MB)),
    ],
)
def test_the_tighter_bound_holds(machine, settings, expected):
    memory = ProcessMemory(RuntimeConfig(**settings))
    assert memory.limit() == expected
    assert memory.limited == ("max_memory" in settings)


def test_what_is_counted_elsewhere_is_not_held_twice(machine):
    assert ProcessMemory(RuntimeConfig(), beside=4 * MB).limit().held == 6 * MB
    assert ProcessMemory(RuntimeConfig(), beside=40 * MB).limit().held == 0


def test_a_need_above_it_is_refused(machine):
    memory, need = ProcessMemory(RuntimeConfig()), Budget(100 * MB, 0, 0, 390 * MB, 0, 0)
    memory.check(need)
    with pytest.raises(MemoryLimitError, match=r"^needs 501 MB, the cage is 500 MB: .* held before 10 MB$"):
        memory.check(Budget(100 * MB, 0, 0, 391 * MB, 0, 0))


def test_where_nothing_is_told_nothing_is_refused(monkeypatch):
    monkeypatch.setattr(module, "usable_memory", lambda: None)
    ProcessMemory(RuntimeConfig()).check(Budget(10**15, 0, 0, 0, 0, 0))
