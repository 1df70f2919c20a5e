"""The prepacked copy: the same numbers, made once, remade when damaged, done without where it cannot be kept."""

from __future__ import annotations

import errno
import gc
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from support.bundles import GRAPH_NAME as DECODER_NAME
from support.bundles import WEIGHTS_NAME, TinyDecoder, write_decoder_bundle

import edgelm
from edgelm.bundle.bundle import open_bundle
from edgelm.bundle.lock import FileLock
from edgelm.errors import EdgeLMError, LockedError, StorageError
from edgelm.runtime import child as child_module
from edgelm.runtime import prepack as prepack_module
from edgelm.runtime.child import ChildEnd, seconds_for
from edgelm.runtime.decoder import Decoder
from edgelm.runtime.prepack import GRAPH_NAME, RECORD_NAME, prepack, prepacked_path, try_prepack
from edgelm.runtime.session import Session

DATA_NAME = f"{GRAPH_NAME}.data"
IDS = [3, 9, 27, 4, 11]


@pytest.fixture
def home(tmp_path, monkeypatch):
    folder = tmp_path / "home with spaces and 🦙"
    monkeypatch.setenv("EDGELM_HOME", str(folder))
    return folder


@pytest.fixture
def bundle(tmp_path, home):
    return open_bundle(write_decoder_bundle(tmp_path / "bundle é", TinyDecoder(layers=2, hidden=64)))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A bundle and a home in which its copy has been made, to be copied by each test."""
    root = tmp_path_factory.mktemp("made")
    bundle = open_bundle(write_decoder_bundle(root / "bundle", TinyDecoder(layers=2, hidden=64)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDGELM_HOME", str(root / "home"))
        prepack(bundle, "decoder")
    return bundle, root / "home"


@pytest.fixture
def ready(made, home):
    bundle, kept = made
    shutil.copytree(kept, home)  # keeps the files' times
    assert prepacked_path(bundle, "decoder").is_file()
    return bundle


@pytest.fixture
def children(monkeypatch):
    """Counts the processes that make copies."""
    count = []
    make = prepack_module._make
    monkeypatch.setattr(prepack_module, "_make", lambda *paths: count.append(paths) or make(*paths))
    return count


def logits(path, *, optimize):
    session = Session(path, threads=1, optimize=optimize)
    result = Decoder(session, context_length=64, prefill_chunk=64).prefill(IDS).copy()
    session.close()
    return result


def expected(bundle):
    return logits(bundle.path(DECODER_NAME), optimize=True)


def test_the_copy_gives_the_same_logits_and_is_made_once(bundle, children):
    path = prepack(bundle, "decoder")
    assert sorted(file.name for file in path.parent.iterdir()) == sorted([GRAPH_NAME, DATA_NAME, RECORD_NAME])
    np.testing.assert_array_equal(logits(path, optimize=False), expected(bundle))
    assert prepack(bundle, "decoder") == path == prepacked_path(bundle, "decoder")
    assert len(children) == 1


def test_a_model_runs_on_its_copy(ready, children):
    answers = set()
    for settings in ({"prepack": True}, {"prepack": True}, {"prepack": False}):
        with edgelm.load(ready.folder, threads=1, **settings) as lm:
            answers.add(lm.generate("the quick", max_new_tokens=10).token_ids)
    assert len(answers) == 1
    assert not children


def test_without_prepacking_nothing_is_written(bundle, home):
    with edgelm.load(bundle.folder, prepack=False) as lm:
        lm.generate("abc", max_new_tokens=1)
    assert not (home / "prepacked").exists()


def test_other_weights_another_runtime_or_processor_have_a_copy_of_their_own(bundle, tmp_path, monkeypatch):
    paths = [prepacked_path(bundle, "decoder")]
    other = write_decoder_bundle(tmp_path / "other", TinyDecoder(layers=2, hidden=64, seed=1))
    paths.append(prepacked_path(open_bundle(other), "decoder"))
    with monkeypatch.context() as patch:
        patch.setattr(prepack_module, "RUNTIME_VERSION", "99.0")
        paths.append(prepacked_path(bundle, "decoder"))
    with monkeypatch.context() as patch:
        patch.setattr(prepack_module, "_processor", lambda: "another one")
        paths.append(prepacked_path(bundle, "decoder"))
    assert len(set(paths)) == 4
    moved = shutil.copytree(bundle.folder, tmp_path / "moved")
    assert prepacked_path(open_bundle(moved), "decoder") == paths[0], "the same weights elsewhere share a copy"


def flip(path, at):
    status = path.stat()
    data = bytearray(path.read_bytes())
    data[at % len(data)] ^= 0x10
    path.write_bytes(data)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def touch(path):
    data = bytearray(path.read_bytes())
    data[1000] ^= 0x10
    path.write_bytes(data)


def cut(path, length):
    path.write_bytes(path.read_bytes()[:length])


DAMAGES = {
    "graph, one bit": lambda folder: flip(folder / GRAPH_NAME, 700),
    "graph, its last bit": lambda folder: flip(folder / GRAPH_NAME, -1),
    "graph, cut": lambda folder: cut(folder / GRAPH_NAME, 100),
    "graph, empty": lambda folder: cut(folder / GRAPH_NAME, 0),
    "graph, gone": lambda folder: (folder / GRAPH_NAME).unlink(),
    "data, changed": lambda folder: touch(folder / DATA_NAME),
    "data, one byte short": lambda folder: cut(folder / DATA_NAME, -1),
    "data, empty": lambda folder: cut(folder / DATA_NAME, 0),
    "data, gone": lambda folder: (folder / DATA_NAME).unlink(),
    "record, gone": lambda folder: (folder / RECORD_NAME).unlink(),
    "record, no JSON": lambda folder: (folder / RECORD_NAME).write_text("[" * 5000),
    "record, another's": lambda folder: (folder / RECORD_NAME).write_text('{"graph.onnx": [1, 2]}'),
    "record, a folder": lambda folder: ((folder / RECORD_NAME).unlink(), (folder / RECORD_NAME).mkdir()),
    "a file too many": lambda folder: (folder / "more").write_text("x"),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_copy_is_never_used(ready, children, damage):
    folder = prepacked_path(ready, "decoder").parent
    damage(folder)
    path = try_prepack(ready, "decoder")
    if path is not None:  # made anew
        assert len(children) == 1
        np.testing.assert_array_equal(logits(path, optimize=False), expected(ready))
    with edgelm.load(ready.folder, threads=1) as lm:
        np.testing.assert_array_equal(lm.new_decoder().prefill(IDS), expected(ready))


def test_most_damaged_copies_are_made_anew(ready):
    for name in ("graph, one bit", "data, one byte short", "data, gone", "record, gone"):
        DAMAGES[name](prepacked_path(ready, "decoder").parent)
        assert try_prepack(ready, "decoder") is not None, name


def test_files_that_are_nobodys_copy_are_left_alone(bundle):
    folder = prepacked_path(bundle, "decoder").parent
    folder.mkdir(parents=True)
    (folder / "mine").write_text("x")
    with pytest.raises(StorageError, match=f"has files but no {GRAPH_NAME}"):
        prepack(bundle, "decoder")
    assert try_prepack(bundle, "decoder") is None
    assert [file.name for file in folder.iterdir()] == ["mine"]


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root writes everywhere")
def test_a_read_only_cache_is_done_without(bundle, home):
    home.mkdir(parents=True)
    home.chmod(0o500)
    assert try_prepack(bundle, "decoder") is None


def test_a_cache_that_cannot_be_written_is_done_without(bundle, home):
    home.write_text("a file where the folder should be")
    with pytest.raises(EdgeLMError):
        prepack(bundle, "decoder")
    with edgelm.load(bundle.folder, threads=1) as lm:
        assert lm.generate("abc", max_new_tokens=2).token_ids


def failing_child(monkeypatch, code):
    monkeypatch.setattr(child_module, "_CODE", code)


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("import sys; sys.exit('No space left on device')", "No space left on device"),
        ("raise MemoryError('too much')", "MemoryError: too much"),
        ("import os; os._exit(7)", "its process ended with exit code 7"),
    ],
)
def test_a_child_that_fails_leaves_nothing_and_is_done_without(bundle, monkeypatch, code, message):
    failing_child(monkeypatch, code)
    with pytest.raises(EdgeLMError, match=rf"^the prepacked copy of {DECODER_NAME} could not be made: {message}$"):
        prepack(bundle, "decoder")
    folder = prepacked_path(bundle, "decoder").parent
    assert not folder.exists()
    assert list(folder.parent.iterdir()) == []
    with edgelm.load(bundle.folder, threads=1) as lm:
        assert lm.generate("abc", max_new_tokens=2).token_ids


def test_a_child_has_a_limit_of_time_and_memory(bundle, monkeypatch):
    begun = []

    def too_slow(*command, seconds):
        begun.append((json.loads(command[-1]), seconds))
        return ChildEnd(None, "", "")

    monkeypatch.setattr(prepack_module, "run_child", too_slow)
    weights = sum((bundle.folder / name).stat().st_size for name in (DECODER_NAME, WEIGHTS_NAME))
    with pytest.raises(EdgeLMError, match=rf"^the prepacked copy of {DECODER_NAME} .*: its process took too long$"):
        prepack(bundle, "decoder", max_memory=1 << 30)
    assert begun == [({"most": 1 << 30, "mapped": weights}, seconds_for(weights))]
    assert list(prepacked_path(bundle, "decoder").parent.parent.iterdir()) == []


@pytest.mark.skipif(sys.platform != "linux", reason="other systems count no such memory")
def test_what_a_child_may_allocate_is_bounded(bundle):
    with pytest.raises(EdgeLMError, match=r"could not be made: .*memory"):
        prepack(bundle, "decoder", max_memory=0)


def test_where_the_system_starts_no_process_it_is_done_without(bundle, monkeypatch):
    def popen(*command, **how):
        raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    monkeypatch.setattr(subprocess, "Popen", popen)
    with pytest.raises(EdgeLMError, match=os.strerror(errno.EAGAIN)):
        prepack(bundle, "decoder")
    assert try_prepack(bundle, "decoder") is None


@pytest.mark.parametrize("how", ["frozen", "embedded", "gone"])
def test_an_application_without_an_interpreter_does_without(bundle, monkeypatch, how):
    if how == "frozen":  # its executable is the application itself
        monkeypatch.setattr(sys, "frozen", True, raising=False)
    else:
        monkeypatch.setattr(sys, "executable", None if how == "embedded" else "/no/such/python")
    assert try_prepack(bundle, "decoder") is None
    assert list(prepacked_path(bundle, "decoder").parent.parent.iterdir()) == []


def test_while_another_process_makes_it_a_model_runs_without(bundle):
    folder = prepacked_path(bundle, "decoder").parent
    lock = folder.parent / f".{folder.name}.edgelm-lock"
    with FileLock(lock):
        with pytest.raises(LockedError):
            prepack(bundle, "decoder")
        assert try_prepack(bundle, "decoder") is None
    assert try_prepack(bundle, "decoder") is not None


def test_threads_that_start_together_get_one_copy_or_none(bundle):
    found = []
    threads = [threading.Thread(target=lambda: found.append(try_prepack(bundle, "decoder"))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert set(found) <= {None, prepacked_path(bundle, "decoder")}
    assert any(found)
    np.testing.assert_array_equal(logits(prepacked_path(bundle, "decoder"), optimize=False), expected(bundle))


MAKE = """
import sys
from pathlib import Path
from edgelm.bundle.bundle import open_bundle
from edgelm.runtime.prepack import prepack
print("go", flush=True)
prepack(open_bundle(Path(sys.argv[1])), "decoder")
"""


@pytest.mark.parametrize("delay", [0.05, 0.35])
def test_a_killed_start_leaves_no_half_copy(bundle, home, delay):
    process = subprocess.Popen([sys.executable, "-c", MAKE, str(bundle.folder)], stdout=subprocess.PIPE)
    with process:
        assert process.stdout.readline() == b"go\n"
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
    folder = prepacked_path(bundle, "decoder").parent
    assert not folder.exists() or prepack_module._is_whole(folder)
    assert prepack(bundle, "decoder").is_file()
    deadline = time.monotonic() + 10
    while len(list(folder.parent.iterdir())) > 1 and time.monotonic() < deadline:  # the dead one's child ends by itself
        time.sleep(0.05)
        prepack(bundle, "decoder")
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]
    np.testing.assert_array_equal(logits(folder / GRAPH_NAME, optimize=False), expected(bundle))


def test_nothing_in_the_current_folder_is_imported(bundle, tmp_path, monkeypatch):
    trap = tmp_path / "downloads"
    trap.mkdir()
    for name in ("onnxruntime", "edgelm", "numpy", "ctypes"):
        (trap / f"{name}.py").write_text("raise SystemExit('trapped')")
    monkeypatch.chdir(trap)
    assert prepack(bundle, "decoder").is_file()


def test_a_relative_bundle_works(bundle, monkeypatch):
    monkeypatch.chdir(bundle.folder.parent)
    relative = open_bundle(Path(bundle.folder.name))
    assert prepack(relative, "decoder").is_file()


def test_the_copy_may_be_replaced_while_a_model_runs_on_it(ready):
    with edgelm.load(ready.folder, threads=1) as lm:
        before = lm.generate("the quick", max_new_tokens=10).token_ids
        shutil.rmtree(prepacked_path(ready, "decoder").parent)
        assert try_prepack(ready, "decoder") is not None
        gc.collect()
        assert lm.generate("the quick", max_new_tokens=10).token_ids == before
