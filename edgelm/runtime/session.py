"""The only importer of onnxruntime: options, threads, tensors that are shared and not copied, cancellation.

Every error of the library leaves this module as one of EdgeLM's.
"""

from __future__ import annotations

import atexit
import ctypes
import os
import platform
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from edgelm.errors import CancelledError, ClosedError, EdgeLMError, MemoryLimitError, ModelError
from edgelm.runtime.resident_code import give_back_code
from edgelm.runtime.usable_memory import address_limits_told

# Read by onnxruntime when it is loaded: from 1.29 on it reports usage unless told not to.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

import onnxruntime as ort

RUNTIME_VERSION: str = ort.__version__
# Longer than any gap between two operators or two steps. The library's own choice, about a second, takes a core from
# whatever else the process does while a graph is loaded, and after each answer.
_SPIN_MICROSECONDS = 1000
_CLOSED = "the model is closed"
# A run that is ended takes as long as the operator that it is in; then its thread may say so, and end.
_ENDING_SECONDS, _LAST_WORDS_SECONDS = 2.0, 0.1
_FATAL_ONLY = 4  # what fails is raised, so it need not also be printed
_TERMINATED = "terminate flag"
_OUT_OF_MEMORY = ("bad_alloc", "Failed to allocate memory", "bad_array_new_length")
# A run with bound inputs and outputs raises RuntimeError, all else the library's own classes.
_ORT_ERRORS: tuple[type[Exception], ...] = (
    RuntimeError,
    MemoryError,
    *(
        kind
        for kind in vars(ort.capi.onnxruntime_pybind11_state).values()
        if isinstance(kind, type) and issubclass(kind, Exception)
    ),
)


class TensorInfo(NamedTuple):
    """What a graph says of an input or output: its shape (a name or "?" for a free dimension) and NumPy dtype."""

    shape: tuple[int | str, ...]
    dtype: np.dtype[Any]


class Tensor:
    """A NumPy array and the runtime's view of the same memory: what is written to one is seen by the other."""

    __slots__ = ("array", "value")

    def __init__(self, array: NDArray[Any]) -> None:
        self.array = array
        self.value = ort.OrtValue.ortvalue_from_numpy(array)

    @classmethod
    def over(cls, value: ort.OrtValue) -> Self:
        """Memory that the runtime made, which lives as long as the tensor."""
        tensor = cls.__new__(cls)
        tensor.value = value
        tensor.array = value.numpy()
        return tensor


class Binding:
    """Inputs and outputs of a session, tied to memory; running it moves no data.

    What is bound lives as long as the binding, or until something else is bound in its place. Once the session is
    closed, a binding can do nothing but raise ClosedError.

    ``renamed``: usual name → the graph's own, where that differs.
    """

    def __init__(self, binding: ort.IOBinding, renamed: Mapping[str, str]) -> None:
        self._native: ort.IOBinding | None = binding
        self._renamed = renamed
        self._inputs: dict[str, Tensor] = {}
        self._outputs: dict[str, Tensor] = {}

    def input(self, name: str, tensor: Tensor) -> None:
        """Reads the graph's input ``name`` from ``tensor``.

        Raises:
            ModelError: there is no such input.
        """
        with _translated_errors("the graph cannot be bound"):
            self.native.bind_ortvalue_input(self._renamed.get(name, name), tensor.value)
        self._inputs[name] = tensor

    def output(self, name: str, tensor: Tensor) -> None:
        """Writes the graph's output ``name`` to ``tensor``, which must have its exact shape."""
        self.native.bind_ortvalue_output(self._renamed.get(name, name), tensor.value)
        self._outputs[name] = tensor

    def new_output(self, name: str) -> None:
        """Lets the runtime make memory for the output ``name``, whose shape is not known; see ``taken``."""
        self.native.bind_output(self._renamed.get(name, name))

    def taken(self) -> list[Tensor]:
        """All bound outputs where they lie, in the order in which they were bound, after a run."""
        return [Tensor.over(value) for value in self.native.get_outputs()]

    @property
    def native(self) -> ort.IOBinding:
        """The library's own object, for ``Session.run``."""
        if self._native is None:
            raise ClosedError(_CLOSED)
        return self._native

    def release(self) -> None:
        """Lets go of the library's object, which holds on to its session."""
        self._native = None


class Switch:
    """Ends the runs it was given to, from any thread, within milliseconds.

    ``shrink``: such runs give the memory of their activations back when they end.
    """

    def __init__(self, *, shrink: bool = False) -> None:
        self.options = ort.RunOptions()
        if shrink:
            self.options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")

    def turn_off(self) -> None:
        """Ends the run in progress and all later ones."""
        self.options.terminate = True


class Session:
    """A loaded graph.

    Args:
        path: the graph; its weights lie beside it.
        threads: threads that one operator may use.
        optimized_to: write the optimized graph there, with the weights in this machine's layout beside it.
        optimize: whether the graph is still to be optimized (a graph that ``optimized_to`` wrote is not).
        spinning: let threads spin while they wait: quicker from operator to operator, at the cost of other work.
        renamed: usual name of an input or output → the graph's own, where that differs.
        planning: lay out the values of a run in one block, as the last run of the same shapes had them. The block comes
            on top of what that run took: too much where runs are large.
        graph: load these bytes as the graph in place of the file; its weights still lie beside ``path``.

    Attributes:
        inputs, outputs: by their usual names.

    Raises:
        ModelError: the runtime refuses the graph.
        MemoryLimitError: there is not enough memory.
    """

    def __init__(
        self,
        path: Path,
        *,
        threads: int,
        optimized_to: Path | None = None,
        optimize: bool = True,
        spinning: bool = True,
        renamed: Mapping[str, str] | None = None,
        planning: bool = True,
        graph: bytes | None = None,
    ) -> None:
        options = _options(threads, optimize, spinning)
        options.enable_mem_pattern = planning
        if graph is not None:
            options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(path.parent))
        if optimized_to is not None:
            _save_optimized(options, optimized_to)
        give_back_code()  # of libraries that have just been imported
        with _translated_errors(f"the runtime refuses {path.name}"):
            self._session: ort.InferenceSession | None = ort.InferenceSession(
                str(path) if graph is None else graph, options, providers=["CPUExecutionProvider"]
            )
        give_back_freed_memory()
        give_back_code()
        self._process = os.getpid()
        self._lock = threading.Lock()
        self._bindings: weakref.WeakSet[Binding] = weakref.WeakSet()
        _SESSIONS.add(self)
        self._renamed = renamed or {}
        self.inputs = _infos(self._session.get_inputs(), self._renamed)
        self.outputs = _infos(self._session.get_outputs(), self._renamed)

    def binding(self) -> Binding:
        """An empty binding of this session."""
        with self._lock:
            binding = Binding(self._open().io_binding(), self._renamed)
            self._bindings.add(binding)
        return binding

    def run(self, binding: Binding, switch: Switch) -> None:
        """Runs the graph once; several threads may run one session, each with a binding of its own.

        Raises:
            CancelledError: ``switch`` was turned off, before or during the run.
            ClosedError: the session is closed, also during the run, or belongs to a process that this one was forked
                from; or the process is ending.
            MemoryLimitError: there is not enough memory.
            ModelError: an operator failed.
        """
        run = (threading.current_thread(), switch)
        _RUNNING.add(run)  # before it is asked whether the process is ending
        try:
            session = self._open()
            with _translated_errors("the graph failed"):
                session.run_with_iobinding(binding.native, switch.options)
        except CancelledError:
            self.check_open()  # a session that is being closed cancels its runs
            raise
        finally:
            _RUNNING.discard(run)

    def check_open(self) -> None:
        """Raises ClosedError where ``run`` would."""
        self._open()

    def close(self) -> None:
        """Gives graph and weights back when the runs in progress have ended; may be called twice."""
        with self._lock:
            self._session = None
            for binding in self._bindings:
                binding.release()

    def _open(self) -> ort.InferenceSession:
        if self._session is None:
            raise ClosedError(_CLOSED)
        if _ENDING.is_set():
            raise ClosedError("the process is ending, and its models are closed")
        if self._process != os.getpid():
            # The threads of the runtime do not survive a fork: a run would wait for them for ever.
            raise ClosedError("the model was loaded before this process was forked; load it again here")
        return self._session

    def keep_for_ever(self) -> None:
        """Leaves the library's session to the end of the process, which was forked from the one that loaded it."""
        self._lock = threading.Lock()  # a thread that is not in this process may have held the other
        if self._session is not None:
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(self._session))


_SESSIONS: weakref.WeakSet[Session] = weakref.WeakSet()
_RUNNING: set[tuple[threading.Thread, Switch]] = set()  # runs may share a switch, but no thread has two
_ENDING = threading.Event()


def interrupt_runs() -> None:
    """Turns off the switches of all runs in progress: what a process does that shall end at once."""
    for _, switch in list(_RUNNING):
        switch.turn_off()


def _end_runs() -> None:
    """When the interpreter ends: lets no run go on in a daemon thread, which would abort the process as it comes back.

    Nor are such threads left in the middle of what they say about it.
    """
    _ENDING.set()
    threads: set[threading.Thread] = set()
    end = time.monotonic() + _ENDING_SECONDS
    while _RUNNING and time.monotonic() < end:
        threads.update(thread for thread, _ in list(_RUNNING))
        interrupt_runs()
        time.sleep(0.001)
    end = time.monotonic() + _LAST_WORDS_SECONDS
    while any(thread.is_alive() for thread in threads) and time.monotonic() < end:
        time.sleep(0.001)


atexit.register(_end_runs)


def _keep_inherited_sessions() -> None:
    """In a forked child: to destroy a session is to wait for its threads, which the child does not have."""
    _RUNNING.clear()  # in threads that are not in this process
    for session in list(_SESSIONS):
        session.keep_for_ever()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_keep_inherited_sessions)


def _options(threads: int, optimize: bool, spinning: bool) -> ort.SessionOptions:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = _FATAL_ONLY
    # Else the library chooses by a file's name or bytes, and could run another graph than the one that was checked.
    options.add_session_config_entry("session.load_model_format", "ONNX")
    options.add_session_config_entry("session.intra_op.allow_spinning", str(int(spinning)))
    options.add_session_config_entry("session.intra_op.spin_duration_us", str(_SPIN_MICROSECONDS))
    if not optimize:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    return options


def _save_optimized(options: ort.SessionOptions, path: Path) -> None:
    options.optimized_model_filepath = str(path)
    options.add_session_config_entry("session.optimized_model_external_initializers_file_name", f"{path.name}.data")
    options.add_session_config_entry("session.optimized_model_external_initializers_min_size_in_bytes", "1024")
    options.add_session_config_entry("session.save_external_prepacked_constant_initializers", "1")


def _infos(arguments: list[Any], renamed: Mapping[str, str]) -> Mapping[str, TensorInfo]:
    usual = {theirs: ours for ours, theirs in renamed.items()}
    infos = {}
    for argument in arguments:
        if argument.type not in _DTYPES:
            raise ModelError(f"{argument.name[:80]!a} is a {argument.type[:80]}, not one of {', '.join(_DTYPES)}")
        shape = tuple("?" if size is None else size for size in argument.shape)
        infos[usual.get(argument.name, argument.name)] = TensorInfo(shape, _DTYPES[argument.type])
    return infos


_DTYPES: dict[str, np.dtype[Any]] = {
    "tensor(float)": np.dtype(np.float32),
    "tensor(float16)": np.dtype(np.float16),
    "tensor(int8)": np.dtype(np.int8),
    "tensor(int32)": np.dtype(np.int32),
    "tensor(int64)": np.dtype(np.int64),
    "tensor(uint8)": np.dtype(np.uint8),
    "tensor(bool)": np.dtype(np.bool_),
}


def runtime_build() -> tuple[str, tuple[str, ...]]:
    """What the library says of its build, and the execution providers that it has; EdgeLM uses the CPU's."""
    return " ".join(ort.get_build_info().split()), tuple(ort.get_available_providers())


def give_back_freed_memory() -> None:
    """Loading and long prompts leave megabytes of freed memory that glibc would keep for later."""
    trim = _malloc_trim()
    if trim is not None:
        trim(0)


@cache
def _malloc_trim() -> Callable[[int], object] | None:
    if sys.platform == "linux" and platform.libc_ver()[0] == "glibc":
        trim: Callable[[int], object] = ctypes.CDLL(None).malloc_trim
        return trim
    return None


@contextmanager
def _translated_errors(doing: str) -> Iterator[None]:
    try:
        yield
    except EdgeLMError:  # a ClosedError is a RuntimeError, too
        raise
    except _ORT_ERRORS as error:
        text = " ".join(str(error).split())
        if _TERMINATED in text:
            raise CancelledError("the run was cancelled") from None
        if isinstance(error, MemoryError) or any(sign in text for sign in _OUT_OF_MEMORY):
            raise MemoryLimitError(f"{doing}: not enough memory ({text[:200]}){address_limits_told()}") from None
        raise ModelError(f"{doing}: {text[:400]}") from error
