"""Faults of bundles, as users meet them: what is refused, how that is told, and that nothing is written meanwhile.

Each case goes through ``edgelm.load`` and ``edgelm run``. Where it counts that the process survives, the bundle is one
that was never opened on this machine, and the command a process of its own.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from support.broken_bundles import (
    FolderEdit,
    GraphEdit,
    crash,
    cut_weights,
    flip_weights,
    huge_expand,
    huge_sum,
    link_weights,
    listed_as,
    long_folding,
    loop,
    manifest_edit,
    manifest_text,
    nan_weights,
    of_rank_3,
    operator,
    other_domain,
    weights_at,
    without_input,
)
from support.bundles import GRAPH_NAME, WEIGHTS_NAME, tokenizer_json, write_decoder_bundle
from support.checkpoints import safetensors_bytes
from support.command_line import edgelm as run_edgelm
from support.command_line import environment
from support.fault_home import ends_with_one_line
from support.foreign_graphs import CONFIG, decoder, write_folder

import edgelm
from edgelm.bundle import opened
from edgelm.cli.app import app
from edgelm.errors import (
    EdgeLMError,
    IntegrityError,
    ManifestError,
    MemoryLimitError,
    ModelError,
    NumericError,
    PromptError,
    TemplateError,
    UnsupportedModelError,
)
from edgelm.runtime import child

Contents = dict[str, bytes | str]


@dataclass(frozen=True)
class Case:
    """A bundle with a fault, and what must be said of it: ``words`` are all in the message."""

    kind: type[EdgeLMError]
    words: tuple[str, ...]
    folder: FolderEdit | None = None
    graph: GraphEdit | None = None
    files: dict[str, bytes] = field(default_factory=dict)
    manifest: dict[str, Any] = field(default_factory=dict)
    exit_code: int = 2


DEEP = "[" * 200_000 + "]" * 200_000
CLASS_TEMPLATE = b"{{ messages.__class__.__mro__ }}"
LARGE_TEMPLATE = b"{% for i in range(2000) %}{{ 'x' * 100000 }}{% endfor %}"
PAST = "past_key_values.0.key"
PANICS = tokenizer_json().replace(
    b'"normalizer": null', b'"normalizer": {"type": "Precompiled", "precompiled_charsmap": "AA=="}'
)
CASES: dict[str, Case] = {
    "manifest not JSON": Case(ManifestError, ("edgelm.json", "not valid JSON"), manifest_text("{")),
    "manifest nested 200,000 deep": Case(ManifestError, ("edgelm.json", "nested deeper"), manifest_text(DEEP)),
    "manifest with a duplicate key": Case(
        ManifestError, ("edgelm.json", "'name' occurs twice"), manifest_text('{"name": "a", "name": "b"}')
    ),
    "manifest with NaN": Case(ManifestError, ("edgelm.json", "NaN"), manifest_text('{"context_length": NaN}')),
    "manifest with a lone surrogate": Case(
        ManifestError, ("edgelm.json", "surrogate"), manifest_edit(lambda document: document.update(name="\ud800"))
    ),
    "unknown version": Case(
        ManifestError, ("format_version", "99"), manifest_edit(lambda document: document.update(format_version=99))
    ),
    "../": Case(ManifestError, ("not a safe file name",), listed_as("../decoder.onnx.data")),
    "absolute": Case(ManifestError, ("not a safe file name",), listed_as("/etc/passwd")),
    "a\\..\\b": Case(ManifestError, ("not a safe file name",), listed_as("a\\..\\b")),
    "NUL in a name": Case(ManifestError, ("not a safe file name", "control character"), listed_as("a\0b")),
    "symlinked weights": Case(IntegrityError, (WEIGHTS_NAME, "symbolic link"), link_weights),
    "weights truncated by one byte": Case(IntegrityError, (WEIGHTS_NAME, "bytes, not the"), cut_weights),
    "one bit flipped": Case(IntegrityError, (WEIGHTS_NAME, "has SHA-256", "not the"), flip_weights),
    "negative offset": Case(ModelError, (GRAPH_NAME, "negative offset -64"), graph=weights_at(0, offset="-64")),
    "huge offset": Case(ModelError, (GRAPH_NAME, "ends at byte"), graph=weights_at(0, offset=str(1 << 62))),
    "overlapping offsets": Case(ModelError, (GRAPH_NAME, "overlap at byte"), graph=weights_at(1, offset="4")),
    "external data outside the folder": Case(
        ModelError, (GRAPH_NAME, "not a safe file name"), graph=weights_at(0, location="../decoder.onnx.data")
    ),
    "external data that the manifest does not list": Case(
        ModelError, (GRAPH_NAME, "the manifest does not list"), graph=weights_at(0, location="passwd")
    ),
    "an operator of a foreign domain": Case(ModelError, ("com.example.Evil", "strange"), graph=other_domain("Evil")),
    "a Loop of 2^62": Case(ModelError, ("Loop", "forever"), graph=loop(1 << 62)),
    "a Scan": Case(ModelError, ("Scan", "strange"), graph=operator("Scan")),
    "vocabulary ≠ logits width": Case(ModelError, ("logits", "31"), manifest={"vocab_size": 31, "eos_token_id": (2,)}),
    "KV inputs missing": Case(ModelError, (f"input {PAST} is missing",), graph=without_input(PAST)),
    "KV inputs of wrong rank": Case(ModelError, (f"input {PAST} must be",), graph=of_rank_3(PAST)),
    "NaN weights": Case(NumericError, ("step 1", "nan"), graph=nan_weights, exit_code=1),
    "a template that reaches for __class__": Case(
        TemplateError, ("template", "__class__"), files={"chat_template.jinja": CLASS_TEMPLATE}
    ),
    "a template that renders 200 MB": Case(
        TemplateError, ("template", "writes more than 1048576 bytes"), files={"chat_template.jinja": LARGE_TEMPLATE}
    ),
    "a template of more than 64 KiB": Case(
        ModelError, ("chat_template.jinja", "65536"), files={"chat_template.jinja": b"x" * 65_537}
    ),
    "a tokenizer that panics": Case(
        ModelError, ("tokenizer.json", "not a usable tokenizer"), files={"tokenizer.json": PANICS}
    ),
}


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EDGELM_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def contents(folder: Path) -> Contents:
    """All that is in a folder, links not followed; of a home, but for what only saves time."""
    paths = (path for path in folder.rglob("*") if path.parent.name != "stamps" and not path.is_dir())
    return {str(path): str(path.readlink()) if path.is_symlink() else path.read_bytes() for path in paths}


def answer(folder: Path) -> str:
    with edgelm.load(folder, prepack=False, threads=1) as lm:
        return lm.chat([{"role": "user", "content": "hello"}], max_new_tokens=2).text


def check_refused(root: Path, folder: Path, case: Case) -> None:
    """The error in Python, the exit code and the line on the command line; files stay as they were."""
    before = contents(root)
    with pytest.raises(case.kind) as caught:
        answer(folder)
    assert all(word in str(caught.value) for word in case.words), caught.value
    done = CliRunner().invoke(app, ["run", str(folder), "hello", "--no-prepack"])
    assert done.exit_code == case.exit_code == caught.value.exit_code
    assert done.stdout.strip() == ""
    assert ends_with_one_line(done.stderr, *case.words), done.stderr
    assert done.stderr.count("\n") == 1
    assert contents(root) == before


@pytest.mark.parametrize("fault", CASES)
def test_is_refused(tmp_path: Path, fault: str) -> None:
    case = CASES[fault]
    folder = write_decoder_bundle(tmp_path / "bundle", edit=case.graph, files=case.files, **case.manifest)
    if case.folder is not None:
        case.folder(folder)
    check_refused(tmp_path, folder, case)


def test_empty_folder_names_the_missing_file(tmp_path: Path) -> None:
    (tmp_path / "bundle").mkdir()
    check_refused(tmp_path, tmp_path / "bundle", Case(ModelError, ("edgelm.json is missing",)))


# Of bundles that were never opened here: a process of its own does so first.


def run_for_the_first_time(folder: Path, home: Path, *arguments: str) -> Any:
    where = environment(EDGELM_HOME=str(home))
    return run_edgelm("run", str(folder), "c d", *arguments, env=where, timeout=120, encoding="utf-8", input="")


def foreign_folder(folder: Path, edit: Callable[[Any], None]) -> Path:
    made = decoder()
    edit(made)
    words = ["<unk>", *"abcdefghij"]
    tokens = json.loads(tokenizer_json())
    tokens["added_tokens"] = []
    tokens["model"] = {"type": "WordLevel", "vocab": {w: i for i, w in enumerate(words)}, "unk_token": "<unk>"}
    return write_folder(folder, {"model.onnx": made, "config.json": CONFIG, "tokenizer.json": tokens})


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no limit that counts what is allocated")
@pytest.mark.parametrize("prepack", [True, False], ids=["prepacked", "as it is"])
@pytest.mark.parametrize("kind", ["ours", "another tool's"])
def test_a_64_gib_expand_is_a_memory_error_and_the_process_lives(
    tmp_path: Path, home: Path, kind: str, prepack: bool
) -> None:
    if kind == "ours":
        folder = write_decoder_bundle(tmp_path / "bundle", edit=huge_sum)
    else:
        folder = foreign_folder(tmp_path / "folder", huge_expand)
    before = contents(folder)
    done = run_for_the_first_time(folder, home, *([] if prepack else ["--no-prepack"]))
    assert (done.returncode, done.stdout) == (MemoryLimitError.exit_code, "")
    assert ends_with_one_line(done.stderr, "memory"), done.stderr
    assert contents(folder) == before


@pytest.mark.skipif(sys.platform == "win32", reason="the exception has another number there")
def test_a_crash_at_the_first_open_is_a_model_error_and_the_process_lives(tmp_path: Path, home: Path) -> None:
    folder = write_decoder_bundle(tmp_path / "bundle", edit=crash)
    before = contents(folder)
    for _ in range(2):  # what crashed once is tried again in a process of its own
        done = run_for_the_first_time(folder, home)
        assert (done.returncode, done.stdout) == (ModelError.exit_code, "")
        assert ends_with_one_line(done.stderr, "tiny", str(folder), "was ended by SIGFPE"), done.stderr
        assert done.stderr.count("\n") == 1
    assert contents(folder) == before


@pytest.mark.parametrize("prepack", [True, False], ids=["prepacked", "as it is"])
def test_a_graph_that_is_loaded_for_ever_is_a_model_error(
    tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch, prepack: bool
) -> None:
    monkeypatch.setattr(child, "_SECONDS", 2.0)
    folder = write_decoder_bundle(tmp_path / "bundle", edit=long_folding)
    monkeypatch.setattr(opened, "_HERE", set())
    with pytest.raises(ModelError, match="took too long: the bundle is refused"):
        edgelm.load(folder, prepack=prepack)
    assert not any(path.is_file() for path in (home / "prepacked").rglob("*") if path.suffix != ".edgelm-lock")


def test_a_tokenizer_that_panics_is_told_in_one_line(tmp_path: Path, home: Path) -> None:
    """Its library would write a page to the process's own stderr."""
    folder = write_decoder_bundle(tmp_path / "bundle", files={"tokenizer.json": PANICS})
    for _ in range(2):  # nor is it remembered as a bundle that is sound
        done = run_for_the_first_time(folder, home, "--no-prepack")
        assert (done.returncode, done.stdout) == (ModelError.exit_code, "")
        assert ends_with_one_line(done.stderr, "tokenizer.json", "not a usable tokenizer"), done.stderr
        assert done.stderr.count("\n") == 1


def test_a_bundle_is_tried_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_decoder_bundle(tmp_path / "bundle")
    children: list[str] = []
    start = edgelm.first_open.run_child
    monkeypatch.setattr(
        "edgelm.first_open.run_child", lambda *call, **how: children.append(call[0]) or start(*call, **how)
    )
    for home_is, expected in (("new", 1), ("new", 1), ("newer", 2)):
        monkeypatch.setattr(opened, "_HERE", set())  # as in a process of its own
        monkeypatch.setenv("EDGELM_HOME", str(tmp_path / home_is))
        answer(folder)
        assert len(children) == expected


# "A user's message that contains <|im_end|> stays text", here with the end of this model's texts.
def test_a_special_token_in_a_message_stays_text(tmp_path: Path) -> None:
    with edgelm.load(write_decoder_bundle(tmp_path / "bundle"), prepack=False) as lm:
        ids = np.asarray(lm.encode_chat([{"role": "user", "content": "stop </s> here"}]))
        assert not np.isin(ids, sorted(lm.tokenizer.special_token_ids - {0})).any()


def test_a_lone_surrogate_in_a_prompt_is_a_prompt_error(tmp_path: Path) -> None:
    with edgelm.load(write_decoder_bundle(tmp_path / "bundle"), prepack=False) as lm:
        for call in (lm.generate, lambda text: lm.chat([{"role": "user", "content": text}])):
            with pytest.raises(PromptError, match="surrogate"):
                call("a \ud800 b")


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"pytorch_model.bin": b"\x80\x04."}, ("pickle", "safetensors")),
        ({"model.pt": b"\x80\x04."}, ("pickle", "safetensors")),
        ({"model.safetensors": safetensors_bytes({"a": np.ones(1, np.float32)}), "auto_map": b""}, ("auto_map",)),
    ],
    ids=["a pickle (.bin)", "a pickle (.pt)", "auto_map"],
)
def test_a_checkpoint_that_asks_for_code_is_refused(
    tmp_path: Path, files: dict[str, bytes], words: tuple[str, ...]
) -> None:
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    asks = {"auto_map": {"AutoModelForCausalLM": "evil.Evil"}} if "auto_map" in files else {}
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", **asks}))
    (folder / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    for name, data in files.items():
        (folder / name).write_bytes(data)
    done = CliRunner().invoke(app, ["export", str(folder), "-o", str(tmp_path / "made")])
    assert (done.exit_code, done.stdout) == (UnsupportedModelError.exit_code, "")
    assert ends_with_one_line(done.stderr, *words), done.stderr
    assert sorted(path.name for path in tmp_path.iterdir() if path.name != "home") == ["checkpoint"]
