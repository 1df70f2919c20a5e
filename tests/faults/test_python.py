"""Faults of the Python interface: bad calls, threads, answers that are broken off, and models that are closed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from support.bundles import GRAPH_NAME, VOCABULARY, WEIGHTS_NAME, TinyDecoder, seal, write_decoder_bundle
from support.command_line import ROOT
from support.fault_home import NAME
from support.scripted_bundle import write_scripted_bundle

import edgelm
from edgelm.errors import ClosedError, ConfigError, NumericError

SLOW = TinyDecoder(layers=4, hidden=128, heads=8, kv_heads=8, head_size=32, ffn=512, context_length=8192)
LONG_PROMPT = [5] * 6000
# It takes as long as the operator that is running, milliseconds here; but other processes may have the cores.
CANCELLED_WITHIN = 1.0

Load = Callable[..., edgelm.LanguageModel]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    root = tmp_path_factory.mktemp("faults") / NAME
    write_decoder_bundle(root / "models" / "tiny", TinyDecoder(layers=2, seed=3))
    write_decoder_bundle(root / "models" / "slow", SLOW)
    write_scripted_bundle(root / "models" / "letters", "abcdefghijklmnop")
    write_scripted_bundle(root / "models" / "foreign", "é你🌍", loop=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDGELM_HOME", str(root))
        yield root


@pytest.fixture
def load(home: Path) -> Iterator[Load]:
    opened: list[edgelm.LanguageModel] = []

    def load(name: str, **settings: Any) -> edgelm.LanguageModel:
        opened.append(edgelm.load(name, **{"threads": 1, "prepack": False, **settings}))
        return opened[-1]

    yield load
    for lm in opened:
        lm.close()


def prompts(count: int) -> list[list[int]]:
    random = np.random.default_rng(0)
    return [random.integers(3, len(VOCABULARY), random.integers(1, 30)).tolist() for _ in range(count)]


@pytest.mark.parametrize("bad", [-1, len(VOCABULARY)], ids=["−1", "≥ vocabulary"])
def test_id_out_of_the_vocabulary_is_a_value_error(load: Load, bad: int) -> None:
    lm = load("tiny")
    calls: tuple[Callable[[], object], ...] = (
        lambda: lm.generate([5, bad]),
        lambda: lm.stream([bad]),
        lambda: lm.generate_batch([[5], [5, bad]]),
        lambda: lm.generate([5, bad], num_beams=2),
    )
    for call in calls:
        with pytest.raises(ValueError, match=rf"{bad}.* {len(VOCABULARY) - 1}"):
            call()


def test_batch_of_lengths_1_17_max_equals_singles(load: Load) -> None:
    lm = load("tiny")
    settings = {"max_new_tokens": 8, "eos_token_id": []}
    texts = [[7], [5] * 17, list(range(3, 31)) * 2]
    texts[2] = texts[2][: lm.context_length - 8]
    singles = [lm.generate(text, **settings).token_ids for text in texts]
    assert [answer.token_ids for answer in lm.generate_batch(texts, **settings)] == singles


@pytest.mark.parametrize("threads", [1, 2])
def test_8_threads_equal_serial(load: Load, threads: int) -> None:
    lm = load("tiny", threads=threads)
    ways: tuple[Callable[[list[int], int], object], ...] = (
        lambda prompt, seed: lm.generate(prompt, max_new_tokens=12).token_ids,
        lambda prompt, seed: lm.generate(prompt, max_new_tokens=12, do_sample=True, seed=seed).token_ids,
        lambda prompt, seed: "".join(chunk.text for chunk in lm.stream(prompt, max_new_tokens=12)),
        lambda prompt, seed: [one.token_ids for one in lm.generate_batch([prompt, prompt[:1]], max_new_tokens=6)],
    )
    work = [(ways[number % len(ways)], prompt, number) for number, prompt in enumerate(prompts(32))]
    serial = [way(prompt, number) for way, prompt, number in work]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda item: item[0](*item[1:]), work)) == serial


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="counts threads in /proc")
def test_abandoned_generator_frees_its_session(load: Load) -> None:
    def threads() -> set[str]:
        return {task.name for task in Path("/proc/self/task").iterdir()}

    before = threads()
    lm = load("tiny", threads=4)
    own = threads() - before
    assert own
    for taken in range(3):
        stream = lm.stream("the quick", max_new_tokens=9)
        for _ in range(taken):
            next(stream)
    del stream
    lm.close()
    deadline = time.monotonic() + 5
    while own & threads() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not own & threads()


def ended_in_a_thread(work: Callable[[], object], act: Callable[[], object], after: float) -> tuple[object, float]:
    """What ``work`` returned or raised in a thread, and how many seconds after ``act`` it did."""
    ended: list[tuple[object, float]] = []

    def run() -> None:
        try:
            outcome = work()
        except Exception as error:
            outcome = error
        ended.append((outcome, time.monotonic()))

    thread = threading.Thread(target=run)
    thread.start()
    time.sleep(after)
    assert not ended, "it ended before it was told to"
    told = time.monotonic()
    act()
    thread.join(30)
    ((outcome, when),) = ended
    return outcome, when - told


@pytest.mark.parametrize("prompt", [LONG_PROMPT, [5] * 4], ids=["in its prompt", "in its answer"])
def test_close_during_generate_is_a_clean_error(load: Load, prompt: list[int]) -> None:
    lm = load("slow")
    generate = lambda: lm.generate(prompt, max_new_tokens=2000, eos_token_id=[])  # noqa: E731
    outcome, seconds = ended_in_a_thread(generate, lm.close, after=0.3)
    assert isinstance(outcome, ClosedError)
    assert seconds < CANCELLED_WITHIN


@pytest.mark.parametrize("settings", [{}, {"num_beams": 2}, {"guidance_scale": 1.5, "negative_prompt": [6] * 5900}])
def test_a_stream_closed_in_the_middle_of_its_prompt_ends_at_once(load: Load, settings: dict[str, Any]) -> None:
    lm = load("slow")
    before = lm.generate([5] * 40, max_new_tokens=5).token_ids
    stream = lm.stream(LONG_PROMPT, max_new_tokens=1000, eos_token_id=[], **settings)
    outcome, seconds = ended_in_a_thread(lambda: list(stream), stream.close, after=0.3)
    assert outcome == []
    assert seconds < CANCELLED_WITHIN
    assert lm.generate([5] * 40, max_new_tokens=5).token_ids == before


FORK = """
import os, sys, warnings
warnings.simplefilter("ignore", DeprecationWarning)  # newer Pythons warn of forking with threads
import edgelm
lm = edgelm.load("letters", threads=2, prepack=False)
child = os.fork()
if child == 0:
    try:
        lm.generate("a")
    except edgelm.EdgeLMError as error:
        print(type(error).__name__, error, flush=True)
    with edgelm.load("letters", threads=2, prepack=False) as own:
        print(own.generate("m").text, flush=True)
    sys.exit(0)
assert os.waitpid(child, 0)[1] == 0
print(lm.generate("m").text)
"""


def python(code: str, *arguments: str) -> list[str]:
    """Runs code in a process of its own and returns the lines that it prints."""
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_fork_works_or_says_no(home: Path) -> None:
    said = "ClosedError the model was loaded before this process was forked; load it again here"
    assert python(FORK) == [said, "nop", "nop"]


@pytest.mark.parametrize("stops", [[""], ["x"] * 10_000], ids=['stop ""', "10,000 stops"])
def test_stops_that_are_none_are_an_error(load: Load, stops: list[str]) -> None:
    lm = load("letters")
    for call in (lm.generate, lm.stream, lambda prompt, **settings: lm.generate_batch([prompt], **settings)):
        with pytest.raises(ConfigError, match="stop"):
            call("a", stop_strings=stops)


@pytest.mark.parametrize(
    ("stop", "text"), [("ef", "bcd"), ("efghi", "bcd"), ("mno", "bcdefghijkl"), ("p", "bcdefghijklmno")]
)
def test_a_stop_across_tokens_cuts_exactly(load: Load, stop: str, text: str) -> None:
    lm = load("letters")
    streamed = "".join(chunk.text for chunk in lm.stream("a", stop_strings=[stop]))
    whole = lm.generate("a", stop_strings=[stop])
    (batched,) = lm.generate_batch(["a"], stop_strings=[stop])
    assert streamed == whole.text == batched.text == text
    assert whole.finish_reason == batched.finish_reason == "stop"


def test_emoji_and_cjk_stream_without_u_fffd_and_streamed_text_is_the_whole_text(load: Load) -> None:
    lm = load("foreign")
    chunks = [chunk.text for chunk in lm.stream("é", max_new_tokens=45)]
    assert "".join(chunks) == lm.generate("é", max_new_tokens=45).text == "你🌍é" * 5
    assert not any("\ufffd" in chunk for chunk in chunks)
    assert {chunk for chunk in chunks if chunk} == {"你", "🌍", "é"}


DRAW = """
import sys, json, edgelm
with edgelm.load("tiny", threads=1, prepack=False) as lm:
    answer = lm.generate("the quick", do_sample=True, temperature=1.5, seed=int(sys.argv[1]), max_new_tokens=20)
    print(json.dumps([answer.text, answer.token_ids]))
"""


def test_same_seed_same_text_in_any_process(load: Load) -> None:
    lm = load("tiny", threads=2)
    draw = {"do_sample": True, "temperature": 1.5, "max_new_tokens": 20}
    here = [lm.generate("the quick", seed=7, **draw) for _ in range(2)]
    assert here[0].token_ids == here[1].token_ids
    ((text, ids),) = (json.loads(line) for line in python(DRAW, "7"))
    assert (text, tuple(ids)) == (here[0].text, here[0].token_ids)
    assert lm.generate("the quick", seed=8, **draw).token_ids != here[0].token_ids


@pytest.fixture(scope="module")
def sick(home: Path) -> str:
    """A model that goes wrong behind the letter d: what it looks up there is not a number."""
    folder = write_scripted_bundle(home / "models" / "sick", "abcdefgh", context_length=128)
    model = onnx.load(folder / GRAPH_NAME)
    (table,) = (tensor for tensor in model.graph.initializer if tensor.name == "embeddings")
    values = numpy_helper.to_array(table).copy()
    (letter,) = np.flatnonzero(values[:, edgelm_letter(folder, "d")])
    values[letter] = np.nan
    table.CopyFrom(numpy_helper.from_array(values, table.name))
    (folder / WEIGHTS_NAME).unlink()
    onnx.save(model, folder / GRAPH_NAME)
    return str(seal(folder).name)


def edgelm_letter(folder: Path, letter: str) -> int:
    with edgelm.load(folder, prepack=False) as lm:
        (token,) = lm.encode(letter)
    return int(token)


@pytest.mark.parametrize("way", ["generate", "stream", "batch", "sampled", "beams"])
def test_logits_that_are_no_numbers_end_with_the_step(load: Load, sick: str, way: str) -> None:
    lm = load(sick)
    pieces: list[str] = []
    calls: dict[str, Callable[[], object]] = {
        "generate": lambda: lm.generate("a"),
        "stream": lambda: pieces.extend(chunk.text for chunk in lm.stream("a")),
        "batch": lambda: lm.generate_batch(["a", "e"]),
        "sampled": lambda: lm.generate("a", do_sample=True, top_k=1, seed=1),
        "beams": lambda: lm.generate("a", num_beams=2),
    }
    with pytest.raises(NumericError, match="step" if way == "beams" else "step 4"):
        calls[way]()
    if way == "stream":
        assert "".join(pieces) == "bcd"
    assert lm.generate("e").text == "fgh", "the model goes on"
