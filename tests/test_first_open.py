"""What becomes of a bundle by how the process ended that opened it first."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from support.bundles import write_decoder_bundle

import edgelm
from edgelm.bundle import opened
from edgelm.bundle.bundle import Bundle, open_bundle
from edgelm.config import RuntimeConfig
from edgelm.errors import MemoryLimitError, ModelError, UnsupportedModelError
from edgelm.first_open import READY, try_first
from edgelm.runtime.child import ChildEnd, NoChildError

Tries = Callable[[ChildEnd | Exception], int]


@pytest.fixture
def bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bundle:
    monkeypatch.setenv("EDGELM_HOME", str(tmp_path / "home"))
    folder = write_decoder_bundle(tmp_path / "bundle")
    monkeypatch.setattr(opened, "_HERE", set())
    return open_bundle(folder)


@pytest.fixture
def tries(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> Tries:
    """Opens the bundle twice, its processes ending in a certain way; returns how many there were."""

    def tries(end: ChildEnd | Exception) -> int:
        begun = []

        def run_child(module: str, function: str, request: str, *, seconds: float) -> ChildEnd:
            begun.append(json.loads(request))
            if isinstance(end, Exception):
                raise end
            return end

        monkeypatch.setattr("edgelm.first_open.run_child", run_child)
        for _ in range(2):
            try_first(bundle, RuntimeConfig(prepack=False))
        return len(begun)

    return tries


@pytest.mark.parametrize("made", [True, False])
def test_copies_are_made_within_the_same_memory_and_done_without(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, made: bool
) -> None:
    asked: list[object] = []

    def try_prepack(bundle: Bundle, role: str, *, max_memory: int | None) -> Path | None:
        asked.append((role, max_memory))
        return bundle.folder if made else None

    def run_child(module: str, function: str, request: str, *, seconds: float) -> ChildEnd:
        asked.append(json.loads(request)["prepack"])
        return said({})

    monkeypatch.setattr("edgelm.first_open.try_prepack", try_prepack)
    monkeypatch.setattr("edgelm.first_open.run_child", run_child)
    try_first(bundle, RuntimeConfig(max_memory=1 << 30))
    assert asked == [("decoder", 1 << 30), made]


def said(answer: object) -> ChildEnd:
    return ChildEnd(0, f"{READY}\n{json.dumps(answer)}", "")


def os_error(number: int) -> OSError:
    return OSError(number, os.strerror(number))


def test_what_went_well_is_remembered(tries: Tries) -> None:
    assert tries(said({})) == 1


def test_what_is_wrong_with_a_tokenizer_is_told_to_who_needs_it(bundle: Bundle, tries: Tries) -> None:
    assert tries(said({"tokenizer": "no tokenizer"})) == 2
    runtime = RuntimeConfig(prepack=False, preload_text=False)
    with edgelm.LanguageModel(bundle, runtime) as lm, pytest.raises(ModelError, match=r"^no tokenizer$"):
        lm.encode("text")


@pytest.mark.parametrize(
    "end",
    [
        NoChildError("no interpreter"),
        ChildEnd(1, "", "No module named 'numpy'"),
        ChildEnd(0, "welcome to this interpreter\nready\n{}\n", ""),
        said({"error": "LockedError", "message": "another process is writing it"}),
        said({"error": "no such error", "message": "x"}),
    ],
    ids=["no process", "one that does not begin", "another's words", "another's fault", "an unknown fault"],
)
def test_what_says_nothing_of_the_bundle_is_tried_again(tries: Tries, end: ChildEnd | Exception) -> None:
    assert tries(end) == 2


@pytest.mark.parametrize(
    ("end", "kind", "words"),
    [
        (ChildEnd(-9, f"{READY}\n", ""), MemoryLimitError, "was ended by SIGKILL, as the system does where memory"),
        (ChildEnd(-11, f"{READY}\n", "x"), ModelError, "was ended by SIGSEGV: the bundle is refused"),
        (ChildEnd(None, f"{READY}\n", "x"), ModelError, "took too long: the bundle is refused"),
        (ChildEnd(-9, "", ""), MemoryLimitError, "was ended by SIGKILL, as the system does where memory"),
        (ChildEnd(-11, "", ""), ModelError, "was ended by SIGSEGV: the bundle is refused"),
        (ChildEnd(None, "", ""), ModelError, "took too long: the bundle is refused"),
        (os_error(errno.ENOMEM), MemoryLimitError, rf"has no memory to start \({os.strerror(errno.ENOMEM)}\)"),
        (os_error(errno.EAGAIN), ModelError, rf"does not start \({os.strerror(errno.EAGAIN)}\): end .*ulimit -u"),
        (os_error(errno.EMFILE), ModelError, rf"does not start \({os.strerror(errno.EMFILE)}\): raise .*ulimit -n"),
        (os_error(errno.EIO), ModelError, rf"does not start \({os.strerror(errno.EIO)}\): try again$"),
        (ChildEnd(3, f"{READY}\n", "a panic"), ModelError, r"ended with exit code 3 \(a panic\): the bundle is"),
        (said({"error": "MemoryLimitError", "message": "too large"}), MemoryLimitError, "^too large$"),
        (said({"error": "UnsupportedModelError", "message": "unknown"}), UnsupportedModelError, "^unknown$"),
    ],
)
def test_what_speaks_against_the_bundle_is_an_error(
    bundle: Bundle,
    tries: Tries,
    end: ChildEnd | OSError,
    kind: type[Exception],
    words: str,
) -> None:
    with pytest.raises(kind, match=words) as caught:
        tries(end)
    assert type(caught.value) is kind
    if not words.startswith("^"):
        assert str(bundle.folder) in str(caught.value)
