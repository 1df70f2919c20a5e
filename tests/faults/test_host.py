"""Faults of the machine: its clock, and how much it lets a process have."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest
from support.bundles import TinyDecoder, write_decoder_bundle
from support.command_forks import CommandForks
from support.command_line import COMMAND, ROOT
from support.fault_home import NAME, add_to_catalog, ends_with_one_line, write_checkpoint

import edgelm
from edgelm.bundle.lock import FileLock
from edgelm.errors import LockedError

CGROUPS = Path("/sys/fs/cgroup")
LIMIT = 512 << 20


@pytest.fixture(scope="module", autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Its models: ``endless``, whose answers are as long as they may be, and ``mine``, which is to be pulled."""
    root = tmp_path_factory.mktemp("faults")
    folder = root / NAME
    write_decoder_bundle(folder / "models" / "endless", TinyDecoder(context_length=60_000), name="endless")
    add_to_catalog(folder, "mine", str(write_checkpoint(root)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDGELM_HOME", str(folder))
        yield folder


@pytest.mark.parametrize("jump", [86_400, -86_400], ids=["a day ahead", "a day back"])
def test_clock_jump_deadlines_hold(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, jump: int) -> None:
    """The clock of the wall jumps again each time that it is looked at."""
    real, jumps = time.time(), count()
    monkeypatch.setattr(time, "time", lambda: real + jump * next(jumps))
    monkeypatch.setattr(time, "time_ns", lambda: int((real + jump * next(jumps)) * 1e9))
    with edgelm.load("endless", threads=1, prepack=False) as lm:
        began = time.monotonic()
        answer = lm.generate("abc", max_new_tokens=50_000, eos_token_id=[], max_time=0.3)
        assert 0.3 <= time.monotonic() - began < 2
    assert answer.finish_reason == "length"
    assert 0 < answer.timings.decode_s < 2
    with FileLock(tmp_path / "lock"):
        began = time.monotonic()
        with pytest.raises(LockedError), FileLock(tmp_path / "lock", timeout=0.2):
            pass
        assert 0.2 <= time.monotonic() - began < 2


@pytest.fixture(scope="module")
def forks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CommandForks]:
    with CommandForks(tmp_path_factory.mktemp("streams")) as forks:
        yield forks


@pytest.mark.parametrize("files", [64, 12, 5])
@pytest.mark.parametrize(
    "arguments", [("run", "endless", "abc", "-n", "3"), ("pull", "mine", "--no-report", "--force")], ids=["run", "pull"]
)
def test_ulimit_n_works_or_is_a_typed_error(
    forks: CommandForks, home: Path, arguments: tuple[str, ...], files: int
) -> None:
    ended = forks.run(*arguments, limits={"RLIMIT_NOFILE": files}, EDGELM_HOME=str(home))
    if files == 64:
        assert ended.code == 0, ended.err
    elif ended.code:
        assert ends_with_one_line(ended.err), ended.err
        assert "unexpected" not in ended.err


IN_CGROUP = "import os, sys; open(sys.argv[1], 'w').write(str(os.getpid())); os.execv(sys.executable, sys.argv[2:])"


@pytest.fixture
def cgroup() -> Iterator[Path]:
    """A control group of 512 MiB, where this process may make one."""
    folder = CGROUPS / "memory" / f"edgelm-test-{os.getpid()}"
    limit = folder / "memory.limit_in_bytes"
    if not (CGROUPS / "memory").is_dir():
        folder, limit = CGROUPS / folder.name, CGROUPS / folder.name / "memory.max"
    try:
        folder.mkdir()
        limit.write_text(str(LIMIT))
    except OSError as error:
        if folder.is_dir():
            folder.rmdir()
        pytest.skip(f"no control group can be made here: {error}")
    yield folder
    folder.rmdir()


def test_cgroup_of_512_mib_refuses_or_fits_and_is_never_killed(cgroup: Path, home: Path) -> None:
    write_decoder_bundle(home / "models" / "huge", TinyDecoder(layers=8, heads=32, kv_heads=32, head_size=128))
    asked = {"endless": ("-n", "20"), "huge": ("-n", "20")}
    for model, flags in asked.items():
        command = [sys.executable, "-c", IN_CGROUP, str(cgroup / "cgroup.procs"), *COMMAND, "run", model, "abc", *flags]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, timeout=60, check=False)
        assert done.returncode in (0, 3), (model, done)
        if done.returncode:
            assert ends_with_one_line(done.stderr, "needs "), done.stderr
