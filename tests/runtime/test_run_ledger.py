"""Who waits for whom: what several threads take stays within the room there is, and none waits for ever."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from random import Random

import pytest

from edgelm.runtime.run_ledger import Call, RunLedger


@pytest.fixture
def ledger() -> RunLedger:
    ledger = RunLedger()
    ledger.room = 100
    return ledger


def begun(ledger: RunLedger, call: Call) -> tuple[threading.Thread, threading.Event, threading.Event]:
    """A thread with that call and a run of it; what tells that the run is in progress, and what ends it."""
    runs, ends = threading.Event(), threading.Event()

    def work() -> None:
        with ledger.call(call), ledger.run(call):
            runs.set()
            assert ends.wait(30)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread, runs, ends


@pytest.mark.parametrize(
    ("one", "other", "room", "together"),
    [
        (Call(10, 40), Call(10, 40), 100, True),
        (Call(10, 40), Call(11, 40), 100, False),  # its run waits
        (Call(50, 40), Call(50, 1), 100, False),  # the call waits
        (Call(500, 400), Call(500, 400), None, True),
    ],
)
def test_what_does_not_fit_beside_others_waits_for_them(
    ledger: RunLedger, one: Call, other: Call, room: int | None, together: bool
) -> None:
    ledger.room = room
    first, runs, ends = begun(ledger, one)
    assert runs.wait(30)
    second, runs, others_end = begun(ledger, other)
    assert runs.wait(30 if together else 0.1) == together
    ends.set()
    assert runs.wait(30)
    others_end.set()
    for thread in (first, second):
        thread.join(30)
        assert not thread.is_alive()


def test_alone_nothing_waits_however_large(ledger: RunLedger) -> None:
    huge = Call(10**12, 10**12)
    for _ in range(2):
        with ledger.call(huge):
            for _ in range(2):
                with ledger.run(huge):
                    pass


def test_what_fails_is_counted_no_more(ledger: RunLedger) -> None:
    large = Call(0, 90)
    for _ in range(2):
        with pytest.raises(ZeroDivisionError), ledger.call(large), ledger.run(large):
            _ = 1 / 0
    with ledger.call(large), ledger.run(large):
        pass


def test_a_wait_that_is_interrupted_leaves_its_place(ledger: RunLedger, monkeypatch: pytest.MonkeyPatch) -> None:
    one, large, small = Call(0, 50), Call(0, 90), Call(0, 10)

    def interrupt(predicate: object) -> None:
        raise KeyboardInterrupt

    with ledger.call(one), ledger.run(one):
        with monkeypatch.context() as patch:
            patch.setattr(ledger._changed, "wait_for", interrupt)
            with pytest.raises(KeyboardInterrupt), ledger.call(large):
                pytest.fail("begun")
        with ledger.call(small), ledger.run(small):
            pass


def test_a_large_one_is_not_overtaken_for_ever(ledger: RunLedger) -> None:
    first, runs, ends = begun(ledger, Call(0, 40))
    assert runs.wait(30)
    second, large_runs, large_ends = begun(ledger, Call(0, 90))
    while not ledger._runs.waiting:
        assert second.is_alive()
    third, small_runs, small_ends = begun(ledger, Call(0, 40))
    assert not small_runs.wait(0.1), "behind the large one, though there is room"
    ends.set()
    assert large_runs.wait(30)
    large_ends.set()
    assert small_runs.wait(30)
    small_ends.set()
    for thread in (first, second, third):
        thread.join(30)


def test_many_threads_stay_within_the_room_and_all_end(ledger: RunLedger) -> None:
    lock = threading.Lock()
    taken, most = 0, 0

    def take(count: int) -> None:
        nonlocal taken, most
        with lock:
            taken += count
            most = max(most, taken)

    def work(seed: int) -> None:
        random = Random(seed)
        for _ in range(50):
            call = Call(random.randrange(60), random.randrange(1, 41))
            with ledger.call(call):
                take(call.held)
                for _ in range(3):
                    with ledger.run(call):
                        take(call.each)
                        take(-call.each)
                take(-call.held)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8), timeout=60))
    assert taken == 0
    assert most <= 100
