"""Sessions: what the library raises becomes one of EdgeLM's errors; telemetry, threads, forks."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import time
import weakref
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper
from support.bundles import GRAPH_NAME, WEIGHTS_NAME

from edgelm.errors import CancelledError, ClosedError, MemoryLimitError, ModelError
from edgelm.runtime.decoder import Decoder
from edgelm.runtime.session import RUNTIME_VERSION, Session, Switch, Tensor

TASKS = Path("/proc/self/task")


def save(path, nodes, inputs, outputs, initializers=()):
    graph = helper.make_graph(nodes, "g", inputs, outputs, list(initializers))
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), path)
    return path


def values(name, dims, kind=TensorProto.FLOAT):
    return helper.make_tensor_value_info(name, kind, dims)


@pytest.fixture
def doubling(tmp_path):
    """y = x + x, x of any length."""
    node = helper.make_node("Add", ["x", "x"], ["y"])
    session = Session(save(tmp_path / "double.onnx", [node], [values("x", ["N"])], [values("y", ["N"])]), threads=1)
    yield session
    session.close()


def run(session, x, y, switch=None):
    binding = session.binding()
    binding.input("x", Tensor(x))
    binding.output("y", Tensor(y))
    session.run(binding, switch or Switch())


def test_a_run_reads_and_writes_the_callers_memory(doubling):
    x, y = np.arange(3, dtype=np.float32), np.zeros(3, np.float32)
    x_tensor, y_tensor = Tensor(x), Tensor(y)
    binding = doubling.binding()
    binding.input("x", x_tensor)
    binding.output("y", y_tensor)
    doubling.run(binding, Switch())
    np.testing.assert_array_equal(y, [0, 2, 4])
    x[:] = 5
    doubling.run(binding, Switch())
    np.testing.assert_array_equal(y, [10, 10, 10])


def test_inputs_and_outputs_are_described(session, sizes):
    assert session.inputs["input_ids"].dtype == np.int64
    assert session.inputs["past_key_values.0.key"].shape == ("B", 1, "T", 16)
    assert session.outputs["logits"].shape == ("R", sizes.vocab_size)
    assert session.outputs["logits"].dtype == np.float32


def test_a_missing_graph(tmp_path, capfd):
    with pytest.raises(ModelError, match=r"^the runtime refuses gone\.onnx: .*doesn't exist"):
        Session(tmp_path / "gone.onnx", threads=1)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("data", [b"", b"not a graph at all", b"\x08\x0a" * 50])
def test_a_file_that_is_no_graph(tmp_path, data, capfd):
    (tmp_path / "bad.onnx").write_bytes(data)
    with pytest.raises(ModelError, match=r"^the runtime refuses bad\.onnx: ") as caught:
        Session(tmp_path / "bad.onnx", threads=1)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("as_bytes", [False, True])
def test_the_librarys_own_format_is_not_run(tmp_path, as_bytes):
    path = save(tmp_path / "double.onnx", [helper.make_node("Add", "xx", "y")], [values("x", [2])], [values("y", [2])])
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.optimized_model_filepath = str(tmp_path / "other.ort")
    onnxruntime.InferenceSession(str(path), options)
    data = (tmp_path / "other.ort").read_bytes()
    assert onnxruntime.InferenceSession(data if as_bytes else str(tmp_path / "other.ort")), "it would run it"
    with pytest.raises(ModelError, match=r"the runtime refuses other\.ort"):
        Session(tmp_path / "other.ort", threads=1, graph=data if as_bytes else None)


def test_a_graph_that_contradicts_itself(tmp_path):
    node = helper.make_node("Add", ["x", "missing"], ["y"])
    path = save(tmp_path / "g.onnx", [node], [values("x", [2])], [values("y", [2])])
    with pytest.raises(ModelError, match="missing"):
        Session(path, threads=1)


def test_an_operator_that_does_not_exist(tmp_path):
    node = helper.make_node("Teleport", ["x"], ["y"])
    path = save(tmp_path / "g.onnx", [node], [values("x", [2])], [values("y", [2])])
    with pytest.raises(ModelError, match="Teleport"):
        Session(path, threads=1)


def test_weights_that_are_missing_or_cut(folder, tmp_path):
    (tmp_path / GRAPH_NAME).write_bytes((folder / GRAPH_NAME).read_bytes())
    with pytest.raises(ModelError, match=f"the runtime refuses {GRAPH_NAME}"):
        Session(tmp_path / GRAPH_NAME, threads=1)
    (tmp_path / WEIGHTS_NAME).write_bytes((folder / WEIGHTS_NAME).read_bytes()[:-1])
    with pytest.raises(ModelError, match=f"the runtime refuses {GRAPH_NAME}"):
        Session(tmp_path / GRAPH_NAME, threads=1)


def test_inputs_of_the_wrong_shape_type_or_name(doubling, capfd):
    with pytest.raises(ModelError, match="the graph failed"):
        run(doubling, np.zeros(3, np.float32), np.zeros(4, np.float32))
    with pytest.raises(ModelError, match="the graph failed"):
        run(doubling, np.zeros((3, 1), np.float32), np.zeros((3, 1), np.float32))
    with pytest.raises(ModelError, match="the graph failed"):
        run(doubling, np.zeros(3, np.int64), np.zeros(3, np.float32))
    with pytest.raises(ModelError, match=r"the graph cannot be bound: .* z"):
        doubling.binding().input("z", Tensor(np.zeros(3, np.float32)))
    assert capfd.readouterr() == ("", "")


def test_more_memory_than_there_is(tmp_path, capfd):
    node = helper.make_node("Expand", ["x", "shape"], ["big"])
    total = helper.make_node("ReduceSum", ["big"], ["y"], keepdims=0)
    inputs = [values("x", [1]), values("shape", ["K"], TensorProto.INT64)]
    session = Session(save(tmp_path / "g.onnx", [node, total], inputs, [values("y", [])]), threads=1)
    binding = session.binding()
    x, shape, y = np.ones(1, np.float32), np.array([1 << 44], np.int64), np.zeros((), np.float32)
    for name, array in (("x", x), ("shape", shape)):
        binding.input(name, Tensor(array))
    binding.output("y", Tensor(y))
    with pytest.raises(MemoryLimitError, match=r"^the graph failed: not enough memory"):
        session.run(binding, Switch())
    small = session.binding()
    shape[:] = 5
    for name, array in (("x", x), ("shape", shape)):
        small.input(name, Tensor(array))
    small.output("y", Tensor(y))
    session.run(small, Switch())
    assert y == 5
    assert capfd.readouterr() == ("", "")


def test_a_switch_that_is_off_ends_every_run(doubling):
    switch = Switch()
    x, y = np.ones(3, np.float32), np.zeros(3, np.float32)
    run(doubling, x, y, switch)
    switch.turn_off()
    with pytest.raises(CancelledError, match="the run was cancelled"):
        run(doubling, x, y, switch)
    run(doubling, x, y, Switch(shrink=True))


def test_a_closed_session(doubling):
    binding = doubling.binding()
    doubling.check_open()
    doubling.close()
    doubling.close()
    x = Tensor(np.zeros(1, np.float32))
    for use in (
        doubling.binding,
        doubling.check_open,
        lambda: doubling.run(binding, Switch()),
        lambda: binding.input("x", x),
        lambda: binding.output("y", x),
        lambda: binding.new_output("y"),
        binding.taken,
    ):
        with pytest.raises(ClosedError, match=r"^the model is closed$"):
            use()


def test_a_session_that_is_closed_just_as_a_run_begins(doubling, monkeypatch):
    binding, opened = doubling.binding(), doubling._open

    def opened_and_closed():
        session = opened()
        doubling.close()
        return session

    monkeypatch.setattr(doubling, "_open", opened_and_closed)
    with pytest.raises(ClosedError, match=r"^the model is closed$"):
        doubling.run(binding, Switch())


def test_a_closed_session_is_freed_though_a_decoder_is_still_there(folder):
    session = Session(folder / GRAPH_NAME, threads=1)
    decoder = Decoder(session, context_length=64, prefill_chunk=64)
    decoder.prefill([3, 4])
    # The library's own object, of which a binding keeps hold, too.
    native = weakref.ref(session._session._sess)
    session.close()
    gc.collect()
    assert native() is None
    with pytest.raises(ClosedError, match="the model is closed"):
        decoder.step(5)


def test_what_is_bound_lives_as_long_as_the_binding(doubling):
    binding, y = doubling.binding(), np.zeros(3, np.float32)
    x = np.arange(3, dtype=np.float32)
    kept = weakref.ref(x)
    binding.input("x", Tensor(x))
    binding.output("y", Tensor(y))
    del x
    gc.collect()
    assert kept() is not None
    doubling.run(binding, Switch())
    np.testing.assert_array_equal(y, [0, 2, 4])
    binding.input("x", Tensor(np.ones(3, np.float32)))
    gc.collect()
    assert kept() is None


def test_outputs_that_are_not_there_are_typed_errors(doubling):
    for bind in (lambda b: b.output("z", Tensor(np.zeros(3, np.float32))), lambda b: b.new_output("z")):
        binding = doubling.binding()
        binding.input("x", Tensor(np.zeros(3, np.float32)))
        bind(binding)
        with pytest.raises(ModelError, match=r"the graph failed: .*z"):
            doubling.run(binding, Switch())


def test_sizes_without_a_name_are_marked(tmp_path):
    node = helper.make_node("Add", ["x", "x"], ["y"])
    path = save(tmp_path / "g.onnx", [node], [values("x", [None, "N", 3])], [values("y", [None, "N", 3])])
    assert Session(path, threads=1).inputs["x"].shape == ("?", "N", 3)


@pytest.mark.parametrize("kind", [TensorProto.DOUBLE, TensorProto.STRING])
def test_a_type_that_no_run_takes_is_named(tmp_path, kind):
    node = helper.make_node("Identity", ["x"], ["y"])
    path = save(tmp_path / "g.onnx", [node], [values("x", [2], kind)], [values("y", [2], kind)])
    with pytest.raises(ModelError, match=r"^'x' is a tensor\((double|string)\), not one of tensor\(float\), "):
        Session(path, threads=1)


def threads_of_this_process() -> int:
    return sum(1 for _ in TASKS.iterdir())


@pytest.mark.skipif(not TASKS.is_dir(), reason="counts threads in /proc")
@pytest.mark.parametrize("threads", [1, 2, 4])
def test_as_many_threads_as_asked_for(folder, threads):
    before = threads_of_this_process()
    session = Session(folder / GRAPH_NAME, threads=threads)
    assert threads_of_this_process() - before == threads - 1  # the caller's own is one of them
    session.close()
    gc.collect()
    deadline = time.monotonic() + 5
    while threads_of_this_process() > before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert threads_of_this_process() == before


def python(code: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_telemetry_is_off_before_the_library_is_loaded():
    code = """
import os, sys
os.environ.pop("ORT_DISABLE_TELEMETRY", None)
seen = []
class Watch:
    def find_spec(self, name, path=None, target=None):
        if name == "onnxruntime":
            seen.append(os.environ.get("ORT_DISABLE_TELEMETRY"))
sys.meta_path.insert(0, Watch())
import edgelm.runtime.session
print(seen)
"""
    assert python(code) == "['1']"


def test_a_users_own_choice_of_telemetry_stays():
    code = "import edgelm.runtime.session, os; print(os.environ['ORT_DISABLE_TELEMETRY'])"
    assert python(code, ORT_DISABLE_TELEMETRY="0") == "0"


def test_the_version_is_the_librarys():
    assert python("import onnxruntime; print(onnxruntime.__version__)", ORT_DISABLE_TELEMETRY="1") == RUNTIME_VERSION


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.parametrize("spinning", [True, False])
def test_a_forked_child_is_told_and_can_end(folder, spinning):
    """A session's threads are not in the child: neither a run nor the end of the process may wait for them."""
    code = f"""
import os, sys, warnings
warnings.simplefilter("ignore", DeprecationWarning)  # newer Pythons warn of forking with threads
from pathlib import Path
from edgelm.errors import ClosedError
from edgelm.runtime.decoder import Decoder
from edgelm.runtime.session import Session
session = Session(Path({str(folder / GRAPH_NAME)!r}), threads=2, spinning={spinning})
decoder = Decoder(session, context_length=64, prefill_chunk=64)
decoder.prefill([3, 4, 5])
read, write = os.pipe()
child = os.fork()
if child == 0:
    try:
        decoder.step(3)
    except ClosedError as error:
        os.write(write, str(error).encode())
    session.close()
    sys.exit(0)
os.close(write)
print(os.read(read, 1000).decode(), os.waitpid(child, 0)[1])
decoder.step(3)
"""
    assert python(code) == "the model was loaded before this process was forked; load it again here 0"
