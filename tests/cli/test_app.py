"""The frame of all commands: help, exit codes, one-line errors."""

from __future__ import annotations

import re
import subprocess
import sys
import warnings
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from support.command_line import ROOT, edgelm, environment

from edgelm import __version__
from edgelm.cli.app import CommandLine, app
from edgelm.cli.help_page import SUB_COMMANDS
from edgelm.errors import DownloadError, LockedError, MemoryLimitError

COMMANDS = [name for section in SUB_COMMANDS.values() for name in section]


def raising(error: BaseException | None) -> CommandLine:
    """A command line with one command that raises, or warns."""

    @click.command()
    @click.option("--verbose", is_flag=True)
    def command(verbose: bool) -> None:
        if error is None:
            warnings.simplefilter("default")
            warnings.warn("two\nlines", UserWarning, stacklevel=1)
        else:
            raise error

    line = CommandLine("edgelm")
    line.get_command = lambda ctx, name: command  # type: ignore[method-assign]
    return line


def test_help_is_light() -> None:
    heavy = "{'onnxruntime', 'numpy', 'tokenizers', 'jinja2', 'onnx', 'huggingface_hub', 'edgelm.language_model'}"
    code = (
        "import sys, edgelm.cli\n"
        "try: edgelm.cli.main()\n"
        f"except SystemExit as end: assert end.code == 0; assert not {heavy} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, "--help"], cwd=ROOT, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert all(f"  {name} ".encode() in done.stdout for name in COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_a_command(name: str) -> None:
    command = app.get_command(click.Context(app), name)
    assert command is not None
    result = CliRunner().invoke(app, [name, "--help"])
    assert CliRunner().invoke(app, [name, "-h"]).stdout == result.stdout
    assert result.exit_code == 0
    assert "Examples:" in result.stdout
    overview = next(section[name] for section in SUB_COMMANDS.values() if name in section)
    assert (command.help or "").splitlines()[0] == overview


@pytest.mark.parametrize("name", COMMANDS)
def test_a_commands_own_options_come_first_and_help_last(name: str) -> None:
    lines = CliRunner().invoke(app, [name, "--help"]).stdout.splitlines()
    sections = [line for line in lines if re.fullmatch(r"[A-Z][a-z]+:", line)]
    assert len(sections) == 1 or sections[-1] == "General:"
    assert "Options:" not in sections[1:]
    options = [line for line in lines if line.startswith("  -")]
    assert options[-1].startswith("  -h, --help")


def test_no_arguments_show_the_help() -> None:
    assert CliRunner().invoke(app, []).stdout == CliRunner().invoke(app, ["--help"]).stdout


def test_version() -> None:
    assert CliRunner().invoke(app, ["--version"]).stdout == f"edgelm {__version__}\n"


def test_ls_is_list(home: Path) -> None:
    assert CliRunner().invoke(app, ["ls"]).stdout == CliRunner().invoke(app, ["list"]).stdout


@pytest.mark.parametrize(("typed", "meant"), [("rnu", "run"), ("lst", "list"), ("shwo", "show")])
def test_an_unknown_command_names_near_ones(typed: str, meant: str) -> None:
    result = CliRunner().invoke(app, [typed])
    assert result.exit_code == 2
    assert f"there is no command '{typed}'; did you mean {meant}" in result.stderr


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (MemoryLimitError("needs 2 MB"), 3, "needs 2 MB"),
        (MemoryError(), 3, "out of memory"),
        (LockedError("x is being written"), 1, "x is being written"),
        (DownloadError("no answer"), 1, "no answer"),
        (KeyError("x"), 1, "unexpected: KeyError: 'x' (EDGELM_DEBUG=1 shows where)"),
        (OSError(28, "No space left on device", "out.txt"), 4, "out.txt: No space left on device"),
        (OSError(24, "Too many open files"), 1, "too many files are open at a time; raise the limit (ulimit -n)"),
        (click.UsageError("So not."), 2, "so not (see: edgelm it --help)"),
        (ValueError("a\nb\x1b[31m"), 1, "unexpected: ValueError: a b\ufffd[31m (EDGELM_DEBUG=1 shows where)"),
    ],
)
def test_errors_are_one_line(error: Exception, code: int, message: str) -> None:
    result = CliRunner().invoke(raising(error), ["it"])
    assert (result.exit_code, result.stdout, result.stderr) == (code, "", f"edgelm: error: {message}\n")


@pytest.mark.parametrize("error", [BrokenPipeError(32, "Broken pipe")])
def test_a_broken_pipe_is_quiet(error: Exception) -> None:
    result = CliRunner().invoke(raising(error), ["it"])
    assert (result.exit_code, result.output) == (0, "")


def test_an_interrupt_is_quiet() -> None:
    result = CliRunner().invoke(raising(KeyboardInterrupt()), ["it"])
    assert (result.exit_code, result.output) == (130, "")


INTERRUPTED = """
import sys
class Interrupt:
    def find_spec(self, name, *_):
        if name == "click":
            raise KeyboardInterrupt
sys.meta_path.insert(0, Interrupt())
from edgelm.cli import main
main()
"""


def test_an_interrupt_before_the_command_line_is_read_is_quiet() -> None:
    done = subprocess.run([sys.executable, "-c", INTERRUPTED], cwd=ROOT, capture_output=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (130, b"", b"")


def test_tracebacks_only_when_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EDGELM_DEBUG", raising=False)
    assert "Traceback" in CliRunner().invoke(raising(KeyError("x")), ["it", "--verbose"]).stderr
    assert "Traceback" not in CliRunner().invoke(raising(MemoryLimitError("x")), ["it", "--verbose"]).stderr
    monkeypatch.setenv("EDGELM_DEBUG", "1")
    assert "Traceback" in CliRunner().invoke(raising(MemoryLimitError("x")), ["it"]).stderr


def test_warnings_are_one_line() -> None:
    result = CliRunner().invoke(raising(None), ["it"])
    assert (result.exit_code, result.stderr) == (0, "edgelm: warning: two lines\n")


def test_utf8_whatever_the_locale(home: Path) -> None:
    done = edgelm("show", "tiny", env=environment(LC_ALL="C", PYTHONIOENCODING="ascii"))
    assert done.returncode == 0
    assert "🦙 émojis" in done.stdout.decode()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="has no /dev/full")
def test_a_full_disk_behind_stdout(home: Path) -> None:
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            [sys.executable, "-m", "edgelm", "show", "tiny"], cwd=ROOT, stdout=full, stderr=subprocess.PIPE, check=False
        )
    assert done.returncode == 4
    assert done.stderr == b"edgelm: error: cannot write: No space left on device\n"
