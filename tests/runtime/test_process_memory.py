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


def test_models_that_are_loaded_later_count_until_they_are_closed(machine, monkeypatch):
    """What of their need comes and goes with their answers does not."""
    monkeypatch.setattr(module, "_LOADED", {})
    need = Budget(64 * MB, 1 * MB, 2 * MB, 30 * MB, 100 * MB, 50 * MB, loading=9 * MB, draft=20 * MB)
    first, second, third = (ProcessMemory(RuntimeConfig()) for _ in range(3))

    def held():
        return [memory.limit().held // MB for memory in (first, second, third)]

    for memory in (first, second, third):
        memory.enter(need)
    assert held() == [76, 43, 10], "what is loaded earlier was there when the process was measured"
    second.leave()
    second.leave()
    assert held() == [43, 43, 10]
    first.leave()
    assert held() == [43, 43, 10]


def test_models_that_nobody_closed_count_until_they_are_let_go_of(machine, monkeypatch):
    monkeypatch.setattr(module, "_LOADED", {})
    first, second = (ProcessMemory(RuntimeConfig()) for _ in range(2))
    second.enter(Budget(0, 0, 0, 30 * MB, 0, 0))
    assert first.limit().held == 40 * MB
    del second
    assert first.limit().held == 10 * MB


def test_a_need_above_it_is_refused(machine):
    memory, need = ProcessMemory(RuntimeConfig()), Budget(100 * MB, 0, 0, 390 * MB, 0, 0)
    memory.check(need)
    with pytest.raises(MemoryLimitError, match=r"^needs 501 MB, the cage is 500 MB: .* process holds 10 MB$"):
        memory.check(Budget(100 * MB, 0, 0, 391 * MB, 0, 0))


def test_where_nothing_is_told_nothing_is_refused(monkeypatch):
    monkeypatch.setattr(module, "usable_memory", lambda: None)
    ProcessMemory(RuntimeConfig()).check(Budget(10**15, 0, 0, 0, 0, 0))
