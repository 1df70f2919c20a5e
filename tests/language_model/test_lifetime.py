"""Several answers at a time; abandoned, interrupted and closed ones: the model stays right, or says it is closed."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import threading
import time
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from support.bundles import VOCABULARY, TinyDecoder, write_decoder_bundle
from support.pools import demand

import edgelm
from edgelm.errors import CancelledError, ClosedError, EdgeLMError, ModelError
from edgelm.runtime.session import interrupt_runs


def prompts(count):
    random = np.random.default_rng(0)
    return [random.integers(3, len(VOCABULARY), random.integers(1, 30)).tolist() for _ in range(count)]


def test_two_streams_in_one_thread_give_what_each_gives_alone(load):
    lm = load("tiny")
    settings = {"max_new_tokens": 20, "eos_token_id": []}
    alone = [lm.generate(prompt, **settings).token_ids for prompt in prompts(2)]
    streams = [lm.stream(prompt, **settings) for prompt in prompts(2)]
    live = list(streams)
    while live:
        live = [stream for stream in live if next(stream, None) is not None]
    assert [stream.result.token_ids for stream in streams] == alone


@pytest.mark.parametrize("threads", [1, 2])
def test_eight_threads_equal_serial(load, threads):
    lm = load("tiny", threads=threads)
    work = [(prompt, seed) for seed, prompt in enumerate(prompts(24))]

    def answer(item):
        prompt, seed = item
        sampled = {"do_sample": True, "seed": seed} if seed % 2 else {}
        return lm.generate(prompt, max_new_tokens=12, eos_token_id=[], **sampled).token_ids

    serial = [answer(item) for item in work]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(answer, work)) == serial


@pytest.fixture
def without_collector():
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def test_a_model_that_is_let_go_is_freed_at_once(load, folders, without_collector):
    lm = edgelm.load(folders["tiny"], prepack=False, threads=1, preload_text=False)
    lm.generate("abc", max_new_tokens=2)
    with lm.stream("abc", max_new_tokens=4) as stream:
        next(stream)
    native = weakref.ref(lm._generator._engine._decoder._session)
    del lm, stream
    assert native() is None


def test_a_model_whose_load_fails_at_its_end_is_freed_at_once(tmp_path, monkeypatch, without_collector):
    folder = write_decoder_bundle(tmp_path / "sick", files={"tokenizer.json": b"{}"})
    sessions = []
    opened = edgelm.language_model.Generator

    def opening(*arguments):
        made = opened(*arguments)
        sessions.append(weakref.ref(made._engine._decoder._session))
        return made

    monkeypatch.setattr("edgelm.language_model.Generator", opening)
    with pytest.raises(ModelError, match="tokenizer"):
        edgelm.load(folder, prepack=False, threads=1)
    (native,) = sessions
    assert native() is None


def test_a_load_that_fails_leaves_no_thread_behind(load, monkeypatch):
    def slow(bundle):
        time.sleep(0.3)
        raise ModelError("a tokenizer that took its time")

    def refuse(*_):
        raise ModelError("the graph is refused")

    monkeypatch.setattr("edgelm.text_side.read_tokenizer", slow)
    monkeypatch.setattr("edgelm.language_model.Generator", refuse)
    with pytest.raises(ModelError, match="the graph is refused"):
        load("tiny")
    assert "edgelm-text" not in {thread.name for thread in threading.enumerate()}


def test_abandoned_streams_give_their_decoders_back_at_once(load):
    lm = load("endless")
    gc.disable()
    try:
        for taken in range(6):
            stream = lm.stream("abc", max_new_tokens=20)
            for _ in range(taken):
                next(stream)
            del stream
            left = (1, 23) if taken else (0, 0)
            assert demand(lm._generator.pool) == left, "one idle decoder, if anything was computed, and nothing else"
    finally:
        gc.enable()
    assert lm.generate("abcdefg", max_new_tokens=3).usage.cached_tokens == 6


def test_an_interrupt_within_an_answer_leaves_the_model_usable(load):
    lm = load("endless")
    before = lm.generate("abc", max_new_tokens=20).token_ids
    stream = lm.stream("abc", max_new_tokens=20)
    next(stream)

    def interrupt(frame, event, argument):
        if event == "call" and frame.f_code.co_name == "step":
            raise KeyboardInterrupt
        return interrupt

    trace = sys.gettrace()
    sys.settrace(interrupt)
    try:
        with pytest.raises(KeyboardInterrupt):
            next(stream)
    finally:
        sys.settrace(trace)
    assert not lm._generator.pool._lent
    result = lm.generate("abc", max_new_tokens=20)
    assert (result.token_ids, result.usage.cached_tokens) == (before, 0)


# The end


def test_a_closed_model_says_so(load):
    lm = load("tiny")
    lm.generate("abc", max_new_tokens=2)
    lm.close()
    lm.close()
    uses = (
        lambda: lm.generate("abc"),
        lambda: lm.stream("abc"),
        lambda: lm.chat([{"role": "user", "content": "a"}]),
        lm.new_decoder,
    )
    for use in uses:
        with pytest.raises(ClosedError, match="the model is closed"):
            use()


def test_a_model_is_a_context_manager(load):
    with load("tiny") as lm:
        stream = lm.stream("abc")
        next(stream)
    with pytest.raises(ClosedError):
        lm.generate("abc")
    with pytest.raises(ClosedError):
        next(stream)
    stream.close()


@pytest.fixture(scope="module")
def slow(tmp_path_factory):
    """A bundle whose prefill of 6,000 tokens takes seconds."""
    sizes = TinyDecoder(layers=4, hidden=128, heads=8, kv_heads=8, head_size=32, ffn=512, context_length=8192)
    return write_decoder_bundle(tmp_path_factory.mktemp("slow") / "b", sizes)


@pytest.mark.parametrize("prompt", [[5] * 6000, [5] * 4], ids=["prefill", "decode"])
def test_closing_ends_an_answer_in_another_thread_with_the_right_error(load, slow, prompt):
    lm = load(slow, prefill_chunk=6000)
    started, ended = threading.Event(), []

    def answer():
        started.set()
        try:
            lm.generate(prompt, max_new_tokens=8000, eos_token_id=[])
        except BaseException as error:
            ended.append((type(error), time.perf_counter()))

    thread = threading.Thread(target=answer)
    thread.start()
    started.wait(10)
    time.sleep(0.3)
    closed = time.perf_counter()
    lm.close()
    thread.join(20)
    (kind, when), *_ = ended
    assert kind is ClosedError
    assert when - closed < 1.5


def test_an_interrupt_ends_all_runs_and_the_model_goes_on(load, slow):
    lm = load(slow)
    before = lm.generate([5] * 4, max_new_tokens=3).token_ids
    ended = []

    def answer():
        try:
            lm.generate([5] * 6000, max_new_tokens=3)
        except EdgeLMError as error:
            ended.append(type(error))

    threads = [threading.Thread(target=answer) for _ in range(2)]
    for thread in threads:
        thread.start()
    time.sleep(0.3)
    while any(thread.is_alive() for thread in threads):  # between two chunks of a prompt none runs
        interrupt_runs()
        time.sleep(0.005)
    assert ended == [CancelledError] * 2
    assert lm.generate([5] * 4, max_new_tokens=3).token_ids == before


def test_closing_while_others_begin_and_end(load):
    for _ in range(10):
        lm, outcomes = load("endless"), []

        def work(lm=lm, outcomes=outcomes):
            try:
                while True:
                    lm.generate("abc", max_new_tokens=5)
            except Exception as error:
                outcomes.append(type(error))

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        time.sleep(0.02)
        lm.close()
        for thread in threads:
            thread.join(10)
        assert outcomes == [ClosedError] * 4


def python(code, *arguments):
    """Runs code in a process of its own, with the repository's imports, and returns what it prints."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


FORK = """
import os, sys, warnings
warnings.simplefilter("ignore", DeprecationWarning)  # newer Pythons warn of forking with threads
from pathlib import Path
import edgelm
lm = edgelm.load(Path(sys.argv[1]), threads=2, prepack=False)
stream = lm.stream("abc", max_new_tokens=20)
next(stream)
read, write = os.pipe()
child = os.fork()
if child == 0:
    for use in (lambda: lm.generate("abc"), lambda: next(stream), lm.new_decoder):
        try:
            use()
        except edgelm.EdgeLMError as error:
            os.write(write, f"{type(error).__name__} ".encode())
    del stream
    lm.close()
    with edgelm.load(Path(sys.argv[1]), threads=2, prepack=False) as own:
        os.write(write, own.generate("abc", max_new_tokens=3).text.encode())
    sys.exit(0)
os.close(write)
status = os.waitpid(child, 0)[1]
print(os.read(read, 1000).decode(), status, lm.generate("abc", max_new_tokens=3).text)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_child_is_told_and_may_load_its_own(folders):
    assert python(FORK, folders["endless"]) == ["ClosedError"] * 3 + ["def", "0", "def"]


FORK_IN_THE_MIDDLE = """
import os, signal, sys, threading, warnings
warnings.simplefilter("ignore", DeprecationWarning)  # newer Pythons warn of forking with threads
from pathlib import Path
import edgelm
lm = edgelm.load(Path(sys.argv[1]), threads=1, prepack=False)
begun, ends = threading.Event(), threading.Event()
check = lm._generator.pool.check

def checking(needs):
    begun.set()
    ends.wait()
    check(needs)

lm._generator.pool.check = checking
worker = threading.Thread(target=lambda: lm.generate("abc", max_new_tokens=3))
worker.start()
begun.wait()
child = os.fork()
if child == 0:
    signal.alarm(20)
    lm.close()
    try:
        lm.generate("abc")
    except edgelm.EdgeLMError as error:
        os._exit(7 if "forked" in str(error) else 8)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
ends.set()
worker.join()
lm.close()
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_child_that_is_forked_while_an_answer_begins_can_close_the_model(folders):
    assert python(FORK_IN_THE_MIDDLE, folders["endless"]) == ["7"]


EXIT = """
import os, sys, threading
from pathlib import Path
import edgelm
lm = edgelm.load(Path(sys.argv[1]), threads=1, prepack=False)
begun = threading.Event()

def work(number):
    while True:
        for chunk in lm.stream("abc"[number:], max_new_tokens=1000, eos_token_id=[]):
            begun.set()

# In one piece: print writes the end of a line apart, and another thread may come between.
threading.excepthook = lambda told: os.write(1, f"{told.exc_type.__name__}\\n".encode())
for number in range(3):
    threading.Thread(target=work, args=(number,), daemon=True).start()
begun.wait()
"""


def test_a_process_may_end_while_threads_that_nobody_waits_for_make_answers(folders):
    assert set(python(EXIT, folders["endless"])) <= {"ClosedError"}


CYCLES = """
import gc, sys
from pathlib import Path
import edgelm

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

def cycle():
    with edgelm.load(Path(sys.argv[1]), threads=2, prepack=sys.argv[2] == "True") as lm:
        lm.generate("the quick", max_new_tokens=4)
        abandoned = lm.stream("the quick", max_new_tokens=9)
        next(abandoned)

for _ in range(20):
    cycle()
gc.collect()
before = resident()
for _ in range(200):
    cycle()
gc.collect()
print(resident() - before, len(list(Path("/proc/self/fd").iterdir())), len(list(Path("/proc/self/task").iterdir())))
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads memory from /proc")
@pytest.mark.parametrize("prepack", [False, True])
def test_two_hundred_loads_leave_nothing_behind(folders, prepack):
    grown, files, threads = map(int, python(CYCLES, folders["tiny"], prepack))
    assert grown < 4_000_000
    assert files < 12
    assert threads <= 2
