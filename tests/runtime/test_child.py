"""Processes of our own: how they end is told, and they never outlive what they were started for."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from support.command_line import ROOT

from edgelm.runtime import child
from edgelm.runtime.child import NoChildError, run_child

posix = pytest.mark.skipif(sys.platform == "win32", reason="signals end processes there in another way")


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where functions for children can be written: ``own.py``."""
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return tmp_path / "own.py"


def test_a_function_is_called_with_its_arguments(module: Path) -> None:
    module.write_text("import sys\ndef f(*a):\n    print(ascii(a)); print('first\\nlast', file=sys.stderr)\n")
    ended = run_child("own", "f", "a b", "é 🦙", "")
    assert (ended.code, ended.output, ended.last_line) == (0, ascii(("a b", "é 🦙", "")) + "\n", "last")


def test_what_others_write_around_its_output_is_not_its_own(module: Path) -> None:
    module.write_text("import atexit\ndef f():\n    print('mine', end=''); atexit.register(print, 'not mine')\n")
    ended = run_child("own", "f")
    assert (ended.code, ended.output) == (0, "mine")


@pytest.mark.skipif(not hasattr(signal, "SIGCHLD"), reason="a signal of POSIX")
@pytest.mark.parametrize(("ends", "code"), [("pass", "0"), ("os.abort()", "1"), ("os._exit(3)", "1")])
def test_an_application_that_ignores_its_children_is_not_told_that_all_is_well(
    module: Path, ends: str, code: str
) -> None:
    module.write_text(f"import os\ndef f():\n    {ends}\n")
    script = (
        "import signal; signal.signal(signal.SIGCHLD, signal.SIG_IGN)\n"
        "from edgelm.runtime.child import run_child; print(run_child('own', 'f').code)"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == f"{code}\n"


def test_nothing_of_the_current_folder_is_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("json", "numpy", "edgelm"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit(9)")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PYTHONPATH", raising=False)
    assert run_child("edgelm.runtime.child", "limit_own_memory").code == 0


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("import sys; sys.exit(7)", "ended with exit code 7"),
        pytest.param("import os; os.abort()", "was ended by SIGABRT", marks=posix),
        pytest.param("import os; os.kill(os.getpid(), 9)", "was ended by SIGKILL", marks=posix),
        pytest.param("import os; os.kill(os.getpid(), 60)", "was ended by signal 60", marks=posix),
    ],
)
def test_its_end_is_told(module: Path, code: str, words: str) -> None:
    module.write_text(f"def f():\n    {code}\n")
    assert str(run_child("own", "f")) == words


@posix
def test_what_takes_too_long_is_ended_with_all_that_it_started(module: Path, tmp_path: Path) -> None:
    module.write_text(
        "import subprocess, sys, time\n"
        "def f(path):\n"
        "    started = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
        "    open(path, 'w').write(str(started.pid))\n"
        "    time.sleep(60)\n"
    )
    pid = tmp_path / "pid"
    started = time.monotonic()
    ended = run_child("own", "f", str(pid), seconds=3)
    assert (ended.code, str(ended)) == (None, "took too long")
    assert time.monotonic() - started < 30
    assert is_gone(int(pid.read_text()))


@posix
def test_it_ends_with_the_process_that_waits_for_it(module: Path, tmp_path: Path) -> None:
    module.write_text("import os, time\ndef f(path):\n    open(path, 'w').write(str(os.getpid())); time.sleep(60)\n")
    pid = tmp_path / "pid"
    code = f"from edgelm.runtime.child import run_child; run_child('own', 'f', {str(pid)!r})"
    path = os.pathsep.join([str(Path(child.__file__).parents[2]), str(tmp_path)])
    parent = subprocess.Popen([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": path})
    wait_for(lambda: pid.exists() and pid.read_text() != "")
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    assert is_gone(int(pid.read_text()))


@pytest.mark.parametrize("how", ["frozen", "embedded", "gone"])
def test_without_an_interpreter_there_is_none(monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    if how == "frozen":
        monkeypatch.setattr(sys, "frozen", True, raising=False)
    else:
        monkeypatch.setattr(sys, "executable", None if how == "embedded" else "/no/such/python")
    with pytest.raises(NoChildError):
        run_child("edgelm.runtime.child", "limit_own_memory")


def test_what_is_no_program_is_no_interpreter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for mode in (0o600, 0o700):
        path = tmp_path / "python"
        path.write_bytes(b"no program")
        path.chmod(mode)
        for executable in (path, path / "python"):
            monkeypatch.setattr(sys, "executable", str(executable))
            with pytest.raises(NoChildError):
                run_child("edgelm.runtime.child", "limit_own_memory")


@pytest.mark.parametrize("number", [errno.EAGAIN, errno.ENOMEM])
def test_what_the_system_is_short_of_is_said(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def popen(*command: object, **how: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(subprocess, "Popen", popen)
    with pytest.raises(OSError, match=os.strerror(number)) as caught:
        run_child("edgelm.runtime.child", "limit_own_memory")
    assert caught.value.errno == number


@posix
def test_too_many_open_files_are_no_lack_of_an_interpreter() -> None:
    import resource

    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, limits[1]))
    try:
        with pytest.raises(OSError, match=os.strerror(errno.EMFILE)):
            run_child("edgelm.runtime.child", "limit_own_memory")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems count no such memory")
def test_what_it_may_allocate_is_bounded(module: Path) -> None:
    module.write_text(
        "from edgelm.runtime.child import limit_own_memory\n"
        "def f(size):\n    limit_own_memory(200 << 20)\n    print(len(bytearray(int(size))))\n"
    )
    assert run_child("own", "f", str(100 << 20)).code == 0
    ended = run_child("own", "f", str(300 << 20))
    assert (ended.code, ended.last_line) == (1, "MemoryError")


def is_gone(pid: int) -> bool:
    """Whether a process has ended, soon; one that nobody has waited for counts as ended."""
    return wait_for(lambda: not Path(f"/proc/{pid}/stat").exists() or " Z " in Path(f"/proc/{pid}/stat").read_text())


def wait_for(condition: Callable[[], bool], seconds: float = 20.0) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            if condition():
                return True
        except OSError:
            return True
        time.sleep(0.05)
    return False
