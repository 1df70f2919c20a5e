"""``edgelm pull``, ``export``, ``quantize``, and the pull that ``run`` does: conversions of a tiny checkpoint."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import Result
from safetensors.numpy import save_file
from support.bundles import write_decoder_bundle
from support.checkpoints import llama_metadata, llama_tensors, write_gguf
from support.command_line import edgelm, started
from support.progress import RecordedProgress

import edgelm as package
from edgelm.bundle.manifest import QUANTIZATION_SCHEMES, Source, parse_manifest
from edgelm.bundle.sources import HubSource, LocalSource
from edgelm.cli.origin import Origin, bundle_name, find_origin, origin_of_installed
from edgelm.cli.toolbox import exporter
from edgelm.errors import ConfigError, MissingDependencyError, ModelNotFoundError

Invoke = Callable[..., Result]


@pytest.fixture
def checkpoint(home: Path, tmp_path: Path) -> Path:
    """A GGUF file, which the user's catalog calls ``mine``."""
    file = write_gguf(tmp_path / "Some Checkpoint.gguf", llama_metadata(), llama_tensors())
    entry = f'[mine]\nsource = "{file.as_posix()}"\nlicense = "MIT"\ntasks = ["chat"]\ndescription = "x"\n'
    (home / "catalog.toml").write_text(f'{entry}download_size = "2MB"\naliases = ["my-own"]\n', encoding="utf-8")
    return file


def manifest_of(home: Path, name: str) -> dict[str, object]:
    values: dict[str, object] = json.loads((home / "models" / name / "edgelm.json").read_text(encoding="utf-8"))
    return values


def test_a_name_that_the_catalog_has_for_another_model_is_kept(invoke: Invoke, home: Path, checkpoint: Path) -> None:
    result = invoke("export", str(checkpoint), "--name", "my-own", "--no-report")
    assert result.exit_code == 0, result.stderr
    assert manifest_of(home, "my-own")["name"] == "my-own"
    assert not (home / "models" / "mine").exists()


def test_schemes_are_those_of_the_tools() -> None:
    assert exporter().SCHEMES == QUANTIZATION_SCHEMES


def test_pull(invoke: Invoke, home: Path, checkpoint: Path) -> None:
    result = invoke("pull", "my-own", "--no-report")
    assert (result.exit_code, result.stdout) == (0, "")
    first, *stages, last = result.stderr.splitlines()
    assert first == "fetching mine from local:Some Checkpoint.gguf: 2 MB, licence: MIT"
    assert stages[-1].startswith("Preparing the weights")
    assert last.startswith("mine is ready: int8, ")
    assert manifest_of(home, "mine")["source"]["license"] == "MIT"  # type: ignore[index]
    assert len(list((home / "prepacked").glob("*/graph.onnx"))) == 1
    again = invoke("pull", "mine")
    assert (again.exit_code, again.stderr) == (0, "mine is installed already; --force makes it anew\n")


def test_pull_in_python(home: Path, checkpoint: Path) -> None:
    progress = RecordedProgress()
    folder = package.pull("my-own", report=False, progress=progress)
    assert folder == home / "models" / "mine"
    assert progress.open == 0
    assert progress.transfers[-1][0].startswith("Preparing the weights")
    written = (folder / "edgelm.json").stat().st_mtime_ns
    assert package.pull("mine") == folder
    assert (folder / "edgelm.json").stat().st_mtime_ns == written
    with pytest.raises(ModelNotFoundError, match="did you mean mine"):
        package.pull("Mine")


def test_pull_another_scheme(invoke: Invoke, home: Path, checkpoint: Path) -> None:
    assert invoke("pull", "mine", "--scheme", "fp32", "--no-report").exit_code == 0
    assert manifest_of(home, "mine-fp32")["quantization"]["scheme"] == "fp32"  # type: ignore[index]
    assert not (home / "models" / "mine").exists()


def test_pull_refuses_what_it_cannot_pull(invoke: Invoke, checkpoint: Path) -> None:
    for model, words in (
        ("nope", "there is no model 'nope'"),
        ("hf:nope", "is not a hub repository"),
        ("pypi:nope", "is not a package source"),
        (str(checkpoint), "convert it with: edgelm export"),
        ("", "is no path"),
    ):
        result = invoke("pull", model)
        assert (result.exit_code, result.stdout) == (2, "")
        assert words in result.stderr, model
        assert result.stderr.count("\n") == 1


def test_run_pulls_what_is_not_there(home: Path, checkpoint: Path) -> None:
    done = edgelm("run", "mine", "hello", "-n", "4", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["model"] == "mine"
    assert done.stderr.startswith(b"fetching mine from ")
    again = edgelm("run", "mine", "hello", "-n", "4", "--json", "--offline")
    assert json.loads(again.stdout)["text"] == json.loads(done.stdout)["text"]
    assert again.stderr == b""


@pytest.mark.skipif(sys.platform != "linux", reason="finds the child in /proc")
def test_a_pull_ends_with_the_process_that_wanted_the_model(home: Path, checkpoint: Path) -> None:
    with started("run", "mine", "hello") as running:
        assert running.stderr is not None
        assert running.stderr.readline().startswith(b"fetching mine from ")
        children = Path(f"/proc/{running.pid}/task/{running.pid}/children").read_text().split()
        (child,) = [pid for pid in children if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]
        os.kill(int(child), signal.SIGSTOP)
        running.kill()
        running.wait()
        os.kill(int(child), signal.SIGCONT)
        deadline = time.monotonic() + 30
        while Path(f"/proc/{child}").exists() and time.monotonic() < deadline:
            time.sleep(0.05)
    assert not Path(f"/proc/{child}").exists()
    assert not (home / "models" / "mine").exists()
    assert not list((home / "models").glob("*new*"))


def test_run_hands_on_why_pulling_failed(home: Path, checkpoint: Path) -> None:
    checkpoint.write_bytes(b"GGUF, but no more than that")
    done = edgelm("run", "mine", "hello")
    assert (done.returncode, done.stdout) == (2, b"")
    lines = done.stderr.decode().splitlines()
    assert lines[0].startswith("fetching mine from ")
    assert lines[-1].startswith("edgelm: error: ")
    assert sum("error" in line for line in lines) == 1
    assert not (home / "models" / "mine").exists()


def test_run_offline_pulls_nothing(invoke: Invoke, checkpoint: Path) -> None:
    result = invoke("run", "mine", "hello", "--offline")
    assert result.exit_code == 2
    assert "'mine' is not installed, and nothing is fetched with --offline" in result.stderr


def test_run_refuses_a_checkpoint(invoke: Invoke, checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "hf").mkdir()
    (tmp_path / "hf" / "config.json").write_text("{}")
    for path in (checkpoint, tmp_path / "hf"):
        result = invoke("run", str(path), "hello")
        assert result.exit_code == 2
        assert f"edgelm export '{path}'" in result.stderr


def test_export_with_an_adapter(invoke: Invoke, checkpoint: Path, tmp_path: Path) -> None:
    """Its matrices must fit: these do not, and nothing is left behind."""
    adapter = tmp_path / "lora"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 1, "lora_alpha": 2}')
    module = "base_model.model.model.layers.0.self_attn.q_proj"
    inputs = llama_tensors()["token_embd.weight"].shape[-1]
    for columns, code in ((inputs, 0), (inputs + 1, 2)):
        matrices = {"lora_A": np.ones((1, columns), np.float32), "lora_B": np.ones((inputs, 1), np.float32)}
        named = {f"{module}.{role}.weight": matrix for role, matrix in matrices.items()}
        save_file(named, str(adapter / "adapter_model.safetensors"))
        result = invoke("export", str(checkpoint), "--no-report", "--adapter", str(adapter), "--name", f"tuned-{code}")
        assert result.exit_code == code, result.stderr
    assert "cannot change 'model.layers.0.self_attn.q_proj.weight'" in result.stderr
    assert "lora" in invoke("show", "tuned-0").stdout
    assert "tuned-2" not in invoke("list").stdout


def test_export_into_the_store(invoke: Invoke, home: Path, checkpoint: Path) -> None:
    result = invoke("export", str(checkpoint), "--no-report", "--license", "MIT")
    assert (result.exit_code, result.stdout) == (0, f"{home / 'models' / 'Some-Checkpoint'}\n")
    assert manifest_of(home, "Some-Checkpoint")["source"] == {
        "uri": "local:Some Checkpoint.gguf",
        "license": "MIT",
        "revision": None,
        "sha256": find_sha256(checkpoint),
        "adapter": None,
    }
    again = invoke("export", str(checkpoint), "--no-report")
    assert again.exit_code == 2
    assert "exists already" in again.stderr
    assert invoke("export", str(checkpoint), "--no-report", "--force").exit_code == 0
    assert invoke("run", "Some-Checkpoint", "hello", "-n", "3").exit_code == 0


def test_export_to_a_folder(invoke: Invoke, tmp_path: Path, checkpoint: Path) -> None:
    folder = tmp_path / "out" / "my 🦙 bundle"
    result = invoke("export", str(checkpoint), "-o", str(folder), "--scheme", "fp32", "--no-report")
    assert result.exit_code == 0, result.stderr
    manifest = parse_manifest((folder / "edgelm.json").read_bytes())
    assert (manifest.name, manifest.quantization["scheme"]) == ("my-bundle", "fp32")
    assert invoke("run", str(folder), "hello", "-n", "3").exit_code == 0


def test_export_refuses_a_bundle_by_name(invoke: Invoke, home: Path, tmp_path: Path) -> None:
    bundle = str(home / "models" / "tiny")
    for command in (("export", bundle, "-o", str(tmp_path / "made")), ("export", bundle, "--force"), ("pull", bundle)):
        refused = invoke(*command)
        assert (refused.exit_code, refused.stdout) == (2, "")
        assert (
            refused.stderr == f"edgelm: error: {bundle} is a bundle already, and runs as it is: edgelm run {bundle!r}\n"
        )
    assert invoke("run", bundle, "hello", "-n", "2").exit_code == 0


def test_export_refuses(invoke: Invoke, checkpoint: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"no gguf")
    for arguments, words in (
        ([str(checkpoint), "-o", "x", "--name", "y"], "either --output or --name"),
        ([str(checkpoint), "--scheme", "int3"], "'int3' is not one of"),
        ([str(checkpoint), "--name", "../x"], "'../x' is no name for a model; take up to 100 letters"),
        ([str(checkpoint), "--exporter", "optimum", "--no-report"], "--no-report is for models that EdgeLM builds"),
        ([str(broken)], "broken.gguf"),
        ([str(tmp_path / "none.gguf")], "none.gguf"),
    ):
        result = invoke("export", *arguments)
        assert result.exit_code == 2
        assert words in result.stderr, arguments
        assert "Traceback" not in result.stderr


def test_quantize_compares_with_what_is_there(invoke: Invoke, home: Path, checkpoint: Path) -> None:
    assert invoke("pull", "mine").exit_code == 0
    result = invoke("quantize", "mine", "--scheme", "int4")
    assert result.exit_code == 0, result.stderr
    header, scheme, *_ = lines = result.stdout.splitlines()
    assert header.split() == ["mine", "mine-int4"]
    assert scheme.split() == ["scheme", "int8", "int4"]
    assert any(line.startswith("perplexity ") and len(line.split()) == 3 for line in lines)
    assert (home / "models" / "mine-int4").is_dir()


def test_quantize_needs_the_checkpoint(invoke: Invoke, home: Path) -> None:
    result = invoke("quantize", "tiny", "--scheme", "int4")
    assert result.exit_code == 2
    assert "tiny was made of a local checkpoint (test:tiny)" in result.stderr


def test_the_origin_of_an_installed_model_is_pinned(home: Path) -> None:
    commit = "0123456789abcdef0123456789abcdef01234567"
    folder = write_decoder_bundle(
        home / "models" / "x-fp32", name="x-fp32", source=Source("hf:org/x", license="MIT", revision=commit)
    )
    origin = origin_of_installed(parse_manifest((folder / "edgelm.json").read_bytes()))
    assert origin == Origin(name="x", source=HubSource("org/x", commit), license="MIT")


def test_find_origin(home: Path, checkpoint: Path) -> None:
    assert find_origin("my-own") == Origin(name="mine", source=LocalSource(checkpoint), license="MIT", size=2_000_000)
    assert find_origin("hf:Org/Model@main").name == "Org--Model"
    assert find_origin("pypi:pkg==1#a/Model.Q4_1.gguf").name == "Model.Q4_1"
    with pytest.raises(ModelNotFoundError, match="its checkpoint is in no catalog"):
        find_origin("tiny")


@pytest.mark.parametrize(
    ("text", "name"),
    [("My Model", "My-Model"), ("-.x.-", "x"), ("a/b\\c", "a-b-c"), ("a" * 200, "a" * 100), ("émile", "mile")],
)
def test_bundle_name(text: str, name: str) -> None:
    assert bundle_name(text) == name


@pytest.mark.parametrize("text", ["", "🦙", "..", "con"])
def test_no_bundle_name(text: str) -> None:
    with pytest.raises(ConfigError, match="give one with --name"):
        bundle_name(text)


def test_missing_tools_name_the_pip_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "edgelm_tools.export", raising=False)
    for name in [name for name in sys.modules if name.startswith("edgelm_tools.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(MissingDependencyError, match=r"needs onnx.*pip install 'edgelm\[tools\]'"):
        exporter()


def find_sha256(file: Path) -> str:
    import hashlib

    return hashlib.sha256(file.read_bytes()).hexdigest()
