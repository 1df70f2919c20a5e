"""kill -9 at random moments, and no room on the disk: what was there stays whole, and the next run cleans up."""

from __future__ import annotations

import os
import random
import shutil
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from support.command_forks import CommandForks
from support.fault_home import SmallDisk, add_to_catalog, ends_with_one_line, leftovers, write_checkpoint

from edgelm.bundle.bundle import open_bundle

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="kills forks")

# Each command was killed at 50 moments before it was released.
MOMENTS = int(os.environ.get("EDGELM_CRASHES", "3"))
# How long a command takes, in exports.
LENGTHS = {"pull": 1.4, "export": 1.0, "quantize": 2.0}
COMMANDS = {
    "pull": ("pull", "mine", "--force", "--no-report"),
    "export": ("export", "NEW", "--name", "mine", "--force", "--no-report"),
    "quantize": ("quantize", "mine", "--scheme", "int4", "--name", "mine", "--force"),
}


@dataclass(frozen=True)
class Made:
    """A bundle, and how long exporting it took."""

    folder: Path
    seconds: float


@pytest.fixture(scope="module")
def forks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CommandForks]:
    with CommandForks(tmp_path_factory.mktemp("streams")) as forks:
        yield forks


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, forks: CommandForks) -> Made:
    """The bundle that is there before."""
    folder = tmp_path_factory.mktemp("made")
    export = ("export", str(write_checkpoint(folder)), "-o", str(folder / "mine"), "--no-report")
    began = time.monotonic()
    assert forks.run(*export, EDGELM_HOME=str(folder / "home")).code == 0
    return Made(folder / "mine", time.monotonic() - began)


class Machine:
    """A home, a checkpoint of another model than the bundle ``made``, and a folder for temporary files."""

    def __init__(self, root: Path, forks: CommandForks, made: Made, home: Path | None = None) -> None:
        self.home = home or root / "home with spaces and 🦙"
        self.forks = forks
        self.made, self.new = made, write_checkpoint(root, 1)
        self.temporary = root / "temporary"
        self.temporary.mkdir()
        self.target = self.home / "models" / "mine"
        self.environment = {"EDGELM_HOME": str(self.home), "TMPDIR": str(self.temporary)}
        add_to_catalog(self.home, "mine", str(self.new))

    def arguments(self, *arguments: str) -> list[str]:
        return [str(self.new) if argument == "NEW" else argument for argument in arguments]

    def run(self, *arguments: str, **limits: int) -> tuple[int, str]:
        ended = self.forks.run(*self.arguments(*arguments), limits=limits, **self.environment)
        return ended.code, ended.err

    def install_old(self) -> str | None:
        """Has the old bundle installed, and nothing else; returns what ``installed`` then does."""
        shutil.rmtree(self.target, ignore_errors=True)
        shutil.copytree(self.made.folder, self.target)
        return self.installed()

    def installed(self) -> str | None:
        """The hash of the weights of the installed model, all of whose files are what its manifest says."""
        if not self.target.exists():
            return None
        bundle = open_bundle(self.target, stamps=None)
        return bundle.manifest.files["decoder.onnx.data"].sha256

    def unfinished(self) -> list[str]:
        return [*leftovers(self.home), *(path.name for path in self.temporary.iterdir())]


@pytest.fixture
def machine(tmp_path: Path, forks: CommandForks, made: Made) -> Machine:
    return Machine(tmp_path, forks, made)


# "kill -9 at random moments → old bundle intact or none"
@pytest.mark.parametrize("command", COMMANDS)
def test_kill_9_at_random_moments_leaves_the_old_bundle_intact_or_none(machine: Machine, command: str) -> None:
    arguments = machine.arguments(*COMMANDS[command])
    chance = random.Random(command)
    found = []
    for moment in range(MOMENTS):
        before = machine.install_old()
        if moment % 2:
            shutil.rmtree(machine.target)
            before = None
        machine.forks.start(*arguments, **machine.environment)
        time.sleep(chance.uniform(0, machine.made.seconds * LENGTHS[command]))
        machine.forks.signal(signal.SIGKILL)
        machine.forks.wait()
        if not machine.target.exists():  # between the two renames, the old one is whole under another name
            machine.run("show", "mine")
        found.append((machine.installed(), before))
    assert machine.run(*arguments)[0] == 0
    assert machine.run("run", "mine", "a", "-n", "1") == (0, "")
    assert all(installed in (before, machine.installed()) for installed, before in found)
    assert machine.unfinished() == []


def test_kill_9_while_the_prepacked_copy_is_written_leaves_a_whole_one_or_none(machine: Machine) -> None:
    question = ("run", "mine", "abc", "-n", "3")
    machine.install_old()
    began = time.monotonic()
    right = machine.forks.run(*question, **machine.environment)
    seconds = time.monotonic() - began
    chance = random.Random(9)
    for _ in range(MOMENTS):
        shutil.rmtree(machine.home / "prepacked", ignore_errors=True)
        machine.forks.start(*question, **machine.environment)
        time.sleep(chance.uniform(0, seconds))
        machine.forks.signal(signal.SIGKILL)
        machine.forks.wait()
        assert machine.forks.run(*question, **machine.environment) == right
    deadline = time.monotonic() + 10
    while machine.unfinished() and time.monotonic() < deadline:  # the last one's child ends by itself
        assert machine.forks.run(*question, **machine.environment) == right
    assert machine.unfinished() == []
    assert len(list((machine.home / "prepacked").iterdir())) == 1


def test_ctrl_c_while_converting_ends_with_130_and_leaves_nothing(machine: Machine) -> None:
    machine.forks.start(*machine.arguments(*COMMANDS["export"]), **machine.environment)
    deadline = time.monotonic() + 30
    while not list(machine.home.glob("models/.mine.edgelm-new-*/decoder.onnx.data")) and time.monotonic() < deadline:
        time.sleep(0.001)
    machine.forks.signal(signal.SIGINT)
    pressed = time.monotonic()
    ended = machine.forks.wait()
    assert time.monotonic() - pressed < 2
    assert (ended.code, "error" in ended.err) == (130, False)
    assert machine.installed() is None
    assert machine.unfinished() == []


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SmallDisk]:
    try:
        disk = SmallDisk(tmp_path_factory.mktemp("disk") / "small")
    except OSError as error:
        pytest.skip(f"no small disk can be made here: {error}")
    with disk:
        yield disk


# "disk full → 4, temporary files gone"
def test_disk_full_at_each_write_ends_with_4_temporary_files_gone(
    tmp_path: Path, forks: CommandForks, made: Made, disk: SmallDisk
) -> None:
    machine = Machine(tmp_path, forks, made, disk.path / "home 🦙")
    command = COMMANDS["export"]
    old, used = machine.install_old(), disk.used_pages()
    for more in (0, 24):
        disk.resize(used + more)
        code, said = machine.run(*command)
        assert code == 4, (more, said)
        assert ends_with_one_line(said, "No space left on device"), said
        assert machine.installed() == old
        assert machine.unfinished() == []
        assert disk.used_pages() == used
    disk.resize(used)
    assert machine.run("run", "mine", "a", "-n", "1") == (0, ""), "without a prepacked copy"
    assert machine.unfinished() == []
    for keeping in (("--record", str(disk.path / "x.json")), ("--prompt-cache", str(disk.path / "x.kv"))):
        code, said = machine.run("run", "mine", "abc", "-n", "2", *keeping)
        assert code == 4
        assert ends_with_one_line(said, keeping[1], "No space left on device"), said
        assert leftovers(disk.path) == []
    disk.resize(4096)
    assert machine.run(*command)[0] == 0
    assert machine.installed() != old


@pytest.mark.parametrize("command", COMMANDS)
def test_a_disk_that_takes_no_more_of_a_file_ends_with_4(machine: Machine, command: str) -> None:
    old = machine.install_old()
    code, said = machine.run(*COMMANDS[command], RLIMIT_FSIZE=60_000)
    assert code == 4, said
    assert ends_with_one_line(said, "File too large"), said
    assert machine.installed() == old
    assert machine.unfinished() == []
