"""Faults of the command line, as users meet them: in processes of their own."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.bundles import TinyDecoder, write_decoder_bundle
from support.command_forks import CommandForks, Ended
from support.command_line import COMMAND, ROOT, edgelm, started
from support.fault_home import NAME, ends_with_one_line
from support.terminal import END, INTERRUPT, Terminal

WINDOW = 64
FOR_LONG = ("-n", "50000", "--min-new-tokens", "50000")
SLOW = TinyDecoder(layers=4, hidden=128, heads=8, kv_heads=8, head_size=32, ffn=512, context_length=8192)


@pytest.fixture(scope="module", autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Its models: ``tiny``, with a window of 64 tokens, one a letter; ``endless``; ``slow``, to read long prompts."""
    folder = tmp_path_factory.mktemp("faults") / NAME
    write_decoder_bundle(folder / "models" / "tiny")
    write_decoder_bundle(folder / "models" / "endless", TinyDecoder(context_length=60_000), name="endless")
    write_decoder_bundle(folder / "models" / "slow", SLOW, name="slow")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDGELM_HOME", str(folder))
        for name in ("EDGELM_DEBUG", "NO_COLOR"):
            patch.delenv(name, raising=False)
        yield folder


@pytest.fixture(scope="module")
def forks(home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[CommandForks]:
    with CommandForks(tmp_path_factory.mktemp("streams")) as forks:
        yield forks


def refused(ended: Ended, code: int, *words: str) -> bool:
    """Whether a command ended with that code, an error in one line that has the words, and nothing else."""
    one_line = ends_with_one_line(ended.err, *words) and ended.err.count("\n") == 1
    return (ended.code, ended.out) == (code, "") and one_line


def ended(done: subprocess.CompletedProcess[bytes]) -> Ended:
    return Ended(done.returncode, done.stdout.decode(), done.stderr.decode())


def test_unknown_model_ends_with_2_and_near_names(forks: CommandForks) -> None:
    assert refused(forks.run("run", "tinny", "hello"), 2, "there is no model 'tinny'", "did you mean tiny?")


def test_prompt_of_context_plus_1_ends_with_2_and_both_counts_never_silently_cut(forks: CommandForks) -> None:
    for flags in (("--raw",), ("--raw", "--num-beams", "2")):
        done = forks.run("run", "tiny", *flags, "a" * (WINDOW + 1))
        assert refused(done, 2, f"{WINDOW + 1} tokens", f"{WINDOW} tokens"), done.err


def test_empty_prompt_starts_from_bos_or_says_why_not(forks: CommandForks) -> None:
    assert refused(forks.run("run", "tiny", ""), 2, "the prompt is empty")
    begun = forks.run("run", "tiny", "--raw", "", "-n", "8")
    assert (begun.code, begun.err) == (0, "")
    assert begun.out.strip()


def test_invalid_utf_8_on_stdin_names_the_byte_offset() -> None:
    done = edgelm("run", "tiny", "-", input=b"caf\xe8 au lait")
    assert refused(ended(done), 2, "standard input is not UTF-8: invalid byte 0xE8 at offset 3")


@pytest.mark.skipif(os.name != "posix", reason="a shell's pipe")
def test_a_pipe_into_head_1_is_quiet() -> None:
    command = " ".join([f"'{COMMAND[0]}'", *COMMAND[1:], "run", "endless", "hello", *FOR_LONG])
    script = f"({command}; echo $? >&3) 3>&2 | head -c 1"
    done = subprocess.run(["sh", "-c", script], cwd=ROOT, capture_output=True, timeout=60, check=False)
    assert len(done.stdout) == 1
    assert done.stderr == b"0\n", "the exit code, and nothing else"


@pytest.mark.skipif(os.name != "posix", reason="a signal of POSIX")
def test_ctrl_c_in_mid_token_flushes_the_text_and_ends_with_130_within_1_s(forks: CommandForks) -> None:
    whole = forks.run("run", "endless", "hello", "-n", "300", "--min-new-tokens", "300").out.encode()
    with started("run", "endless", "hello", *FOR_LONG) as running:
        assert running.stdout is not None
        first = running.stdout.read(20)
        pressed = time.monotonic()
        running.send_signal(signal.SIGINT)
        rest, said = running.communicate(timeout=10)
        seconds = time.monotonic() - pressed
    assert (running.returncode, said) == (130, b"")
    assert whole.startswith((first + rest)[:290].removesuffix(b"\n"))
    assert seconds < 1


def wait_until_it_reads_its_prompt(running: subprocess.Popen[bytes]) -> None:
    """Waits until the weights are mapped, and a moment more."""
    maps = Path(f"/proc/{running.pid}/maps")
    deadline = time.monotonic() + 30
    while ".onnx.data" not in maps.read_text() and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.2)


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="sees in /proc how far the process is")
@pytest.mark.parametrize("place", ["as it starts", "in its prompt"])
def test_ctrl_c_before_there_is_a_token_ends_with_130_within_1_s(tmp_path: Path, place: str) -> None:
    prompt = tmp_path / "prompt.txt"
    prompt.write_text("a" * 8000)
    with started("run", "slow", "--raw", "-f", str(prompt), "-n", "100") as running:
        if place == "in its prompt":
            wait_until_it_reads_its_prompt(running)
        else:
            time.sleep(0.1)
        pressed = time.monotonic()
        running.send_signal(signal.SIGINT)
        written, said = running.communicate(timeout=10)
        waited = time.monotonic() - pressed
    if place == "in its prompt":  # an interpreter that is just starting tells in its own way
        assert (running.returncode, written.strip(), said) == (130, b"", b"")
    assert running.returncode != 0
    assert waited < 1


@pytest.mark.skipif(os.name != "posix", reason="needs a terminal of POSIX")
def test_ctrl_c_in_a_conversation_before_there_is_a_token_withdraws_the_question_within_1_s() -> None:
    with Terminal("chat", "slow", "-n", "50", "--min-new-tokens", "50") as terminal:
        terminal.wait_for(">>> ")
        terminal.type("a" * 3000 + "\n")
        terminal.wait_for("a\r\n")
        time.sleep(0.2)
        pressed = time.monotonic()
        terminal.type(INTERRUPT)
        terminal.wait_for("the question is withdrawn")
        assert time.monotonic() - pressed < 1
        terminal.wait_for(">>> ")
        terminal.type("hello\n")
        terminal.wait_for("hello\r\n")
        terminal.wait_for(">>> ")
        terminal.type(END)
        assert terminal.end() == 0


def test_max_memory_10mb_ends_with_3_within_2_s_with_what_is_needed() -> None:
    began = time.monotonic()
    done = edgelm("run", "tiny", "hello", "--max-memory", "10MB")
    assert time.monotonic() - began < 2
    assert refused(ended(done), 3, "needs ", " MB", "10 MB"), done.stderr


@pytest.mark.parametrize(
    "setting",
    [("--temperature", "nan"), ("--top-p", "1.5"), ("--top-k", "-1")],
    ids=lambda setting: " ".join(setting),
)
def test_a_value_out_of_range_is_a_usage_error(forks: CommandForks, setting: tuple[str, str]) -> None:
    assert refused(forks.run("run", "tiny", "hello", *setting), 2, f"'{setting[0]}'", "edgelm run --help")


# Root may write everywhere, unless it gives that right away.
WITHOUT_RIGHTS = (
    "import ctypes, os, sys\n"
    "ctypes.CDLL(None).prctl(24, 1, 0, 0, 0)  # PR_CAPBSET_DROP, CAP_DAC_OVERRIDE\n"
    "os.execv(sys.executable, [sys.executable, *sys.argv[1:]])\n"
)


@pytest.mark.skipif(sys.platform != "linux", reason="what root may do is taken away with a call of Linux")
def test_read_only_home_runs(home: Path, tmp_path: Path) -> None:
    models = tmp_path / "home" / "models"
    shutil.copytree(home / "models" / "tiny", models / "tiny")
    places = [models.parent, models, models / "tiny"]
    answers = []
    for mode in (0o555, 0o755):
        for place in places:
            place.chmod(mode)
        command = [sys.executable, "-c", WITHOUT_RIGHTS, *COMMAND[1:], "run", "tiny", "hello"]
        environment = os.environ | {"EDGELM_HOME": str(models.parent)}
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, check=False)
        assert (done.returncode, done.stderr) == (0, b"")
        answers.append(done.stdout)
        made = sorted(path.name for path in models.parent.iterdir())
        assert made == (["models"] if mode == 0o555 else ["models", "prepacked", "stamps"])
    assert answers[0] == answers[1] != b""


def test_path_with_spaces_and_emoji_works(forks: CommandForks, home: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(home / "models" / "tiny", tmp_path / "my models 🦙" / "très petit 模型")
    prompt = tmp_path / "a prompt 🦙.txt"
    prompt.write_text("hello", encoding="utf-8")
    record = tmp_path / "a record 🦙.json"
    done = forks.run("run", str(folder), "-f", str(prompt), "-n", "5", "--record", str(record))
    assert (done.code, done.err) == (0, "")
    assert done.out == forks.run("run", "tiny", "hello", "-n", "5").out
    assert forks.run("replay", str(record)).code == 0
