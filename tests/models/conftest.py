"""Real models, pulled and converted by the commands that a user gives, and kept until the converter changes."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from support import command_line
from support.command_line import environment
from support.source_tree import ROOT

import edgelm
from edgelm.bundle.home import home as user_home
from edgelm.bundle.lock import FileLock

NAME = "smollm2"
FP32_NAME = "smollm2-fp32"
TRANSLATORS = ("en-pt", "pt-en")
# What is pulled, and how.
PULLED = (
    (NAME, "--scheme", "fp32", "--no-report"),
    (NAME,),
    *((name, "--no-report") for name in (*TRANSLATORS, "minilm")),
)
CONVERSION_SECONDS = 900

Command = Callable[..., Any]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """All tests of this folder need the model."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.model)


@pytest.fixture(scope="session")
def home() -> Path:
    """An EDGELM_HOME with SmolLM2 in int8 and in fp32, and two translators.

    It is kept from one session to the next (``EDGELM_TEST_HOME``).
    """
    folder = _test_home()
    made_by = folder / "made-by"
    with FileLock(folder / ".lock", timeout=CONVERSION_SECONDS):
        if not made_by.exists() or made_by.read_text() != _converter():
            made_by.unlink(missing_ok=True)
            # With the copies kept for them; there may be none.
            run_edgelm(folder, "rm", "--yes", NAME, FP32_NAME, *TRANSLATORS, "minilm")
            for arguments in PULLED:
                done = run_edgelm(folder, "pull", "--force", *arguments, timeout=CONVERSION_SECONDS)
                assert done.returncode == 0, done.stderr
            made_by.write_text(_converter())
    return folder


@pytest.fixture(autouse=True)
def at_home(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What runs inside a test finds the models by name."""
    monkeypatch.setenv("EDGELM_HOME", str(home))


@pytest.fixture
def command(home: Path) -> Command:
    """Runs ``edgelm`` with some arguments in a process of its own: ``command("run", NAME, stdin="…")``."""
    return lambda *arguments, **settings: run_edgelm(home, *arguments, **settings)


@pytest.fixture(scope="module")
def int8(home: Path) -> Iterator[edgelm.LanguageModel]:
    """What users run."""
    with _loaded(home, NAME) as lm:
        yield lm


@pytest.fixture(scope="module")
def fp32(home: Path) -> Iterator[edgelm.LanguageModel]:
    """The yardstick: where tokens must be the same ones, whatever the order of computation."""
    with _loaded(home, FP32_NAME) as lm:
        yield lm


@pytest.fixture(scope="session")
def checkpoint(home: Path) -> Path:
    """The GGUF file that both bundles were made of."""
    (found,) = (home / "downloads").rglob("*.gguf")
    return found


def run_edgelm(home: Path, *arguments: str, stdin: str = "", timeout: float = 120) -> Any:
    """The ended process, with its output as text."""
    where = environment(EDGELM_HOME=str(home))
    return command_line.edgelm(*arguments, env=where, input=stdin, encoding="utf-8", timeout=timeout)


def _loaded(home: Path, name: str) -> edgelm.LanguageModel:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDGELM_HOME", str(home))
        return edgelm.load(name)


def _test_home() -> Path:
    chosen = os.environ.get("EDGELM_TEST_HOME")
    if chosen:
        return Path(chosen)
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("EDGELM_HOME", raising=False)
        return user_home().with_name("edgelm-tests")


def _converter() -> str:
    """What a bundle depends on: the tools, the catalog, the bundle's format, and the libraries beneath."""
    digest = hashlib.sha256()
    for folder in ("edgelm/bundle", "models", "tools"):
        for path in sorted((ROOT / folder).rglob("*")):
            if path.suffix in (".py", ".toml", ".txt"):
                digest.update(f"{path.relative_to(ROOT)}\n".encode() + path.read_bytes())
    libraries = [f"{name} {version(name)}" for name in ("gguf", "numpy", "onnx", "onnxruntime", "tokenizers")]
    return "\n".join([digest.hexdigest(), *libraries])
