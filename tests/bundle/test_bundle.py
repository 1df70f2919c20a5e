import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from support.bundles import (
    CHAT_TEMPLATE,
    GRAPH_NAME,
    WEIGHTS_NAME,
    TinyDecoder,
    decoder_model,
    seal,
    write_decoder_bundle,
)
from support.foreign_graphs import CONFIG
from support.foreign_graphs import decoder as foreign_decoder
from support.foreign_graphs import write_folder as write_foreign_folder

from edgelm.bundle.bundle import open_bundle
from edgelm.bundle.manifest import MANIFEST_NAME
from edgelm.config import GenerationConfig
from edgelm.errors import IntegrityError, ManifestError, ModelError, ModelNotFoundError


def test_a_bundle_opens(tmp_path: Path) -> None:
    folder = write_decoder_bundle(tmp_path / "bundle")
    bundle = open_bundle(folder, stamps=tmp_path / "stamps")
    assert bundle.folder == folder
    assert bundle.manifest.name == "tiny"
    assert bundle.graphs["decoder"].file_name == GRAPH_NAME
    assert bundle.path(WEIGHTS_NAME) == folder / WEIGHTS_NAME
    assert bundle.read_text("chat_template.jinja", 1000) == CHAT_TEMPLATE
    assert bundle.read_json("config.json")["model_type"] == "llama"
    assert bundle.generation_defaults() == GenerationConfig(eos_token_id=(2,), max_new_tokens=32)


def test_a_path_with_spaces_and_emoji_opens(tmp_path: Path) -> None:
    assert open_bundle(write_decoder_bundle(tmp_path / "my models 🤖" / "tiny é"))


def test_a_link_to_a_bundle_opens(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(write_decoder_bundle(tmp_path / "bundle"))
    assert open_bundle(tmp_path / "link").manifest.name == "tiny"


def test_a_bundle_is_read_where_it_was_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_decoder_bundle(tmp_path / "bundle")
    write_foreign_folder(tmp_path / "folder", {"model.onnx": foreign_decoder(), "config.json": CONFIG})
    monkeypatch.chdir(tmp_path)
    bundles = [open_bundle(Path(name)) for name in ("bundle", "folder")]
    monkeypatch.chdir("/")
    assert bundles[0].read_text("chat_template.jinja", 1000) == CHAT_TEMPLATE
    assert all(bundle.read_json("config.json") for bundle in bundles)


def test_an_empty_folder_names_the_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"^edgelm\.json is missing in "):
        open_bundle(tmp_path)


@pytest.mark.parametrize("name", ["absent", "file/below"])
def test_an_absent_folder_is_not_found(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ModelNotFoundError, match="there is no folder"):
        open_bundle(tmp_path / name)


@pytest.mark.parametrize("name", ["file", "a\0b", "x" * 5000])
def test_what_is_no_folder_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ModelError):
        open_bundle(tmp_path / name)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"\x08\x0a", "not valid JSON"),
        (b"[" * 200_000, "nested deeper"),
        (b'{"name": "a", "name": "b"}', "key 'name' occurs twice"),
        (b'{"format_version": 99}', "format_version is 99; this EdgeLM reads version 1"),
    ],
)
def test_a_broken_manifest_is_refused(tmp_path: Path, data: bytes, reason: str) -> None:
    folder = write_decoder_bundle(tmp_path / "bundle")
    (folder / MANIFEST_NAME).write_bytes(data)
    with pytest.raises(ManifestError, match=reason):
        open_bundle(folder)


def test_a_huge_manifest_is_not_read_whole(tmp_path: Path) -> None:
    folder = write_decoder_bundle(tmp_path / "bundle")
    os.truncate(folder / MANIFEST_NAME, 1 << 40)  # sparse: takes no room on the disk
    with pytest.raises(ModelError, match="more than the 1048576 bytes allowed"):
        open_bundle(folder)


def test_a_linked_manifest_is_refused(tmp_path: Path) -> None:
    folder = write_decoder_bundle(tmp_path / "bundle")
    (folder / MANIFEST_NAME).rename(tmp_path / "manifest")
    (folder / MANIFEST_NAME).symlink_to(tmp_path / "manifest")
    with pytest.raises(IntegrityError, match="symbolic link"):
        open_bundle(folder)


def test_damaged_weights_are_refused(tmp_path: Path) -> None:
    folder = write_decoder_bundle(tmp_path / "bundle")
    data = bytearray((folder / WEIGHTS_NAME).read_bytes())
    data[17] ^= 4
    (folder / WEIGHTS_NAME).write_bytes(data)
    with pytest.raises(IntegrityError, match=f"{WEIGHTS_NAME} in .* has SHA-256"):
        open_bundle(folder)


def test_every_graph_is_checked(tmp_path: Path) -> None:
    twin = decoder_model()
    twin.graph.node.append(helper.make_node("Loop", ["logits"], [], "inner"))
    folder = write_decoder_bundle(tmp_path / "bundle", files={"inspect.onnx": twin.SerializeToString()})
    with pytest.raises(ModelError, match=r"inspect\.onnx: node 15 'inner': Loop"):
        open_bundle(seal(folder, graphs={"decoder": GRAPH_NAME, "inspect": "inspect.onnx"}))


def test_an_expand_to_64_gib_is_refused_and_the_process_lives(tmp_path: Path) -> None:
    def edit(model: onnx.ModelProto) -> None:
        model.graph.initializer.append(numpy_helper.from_array(np.array([2**34]), "wide"))
        model.graph.node.append(helper.make_node("Expand", ["logits", "wide"], ["bomb"], "bomb"))

    with pytest.raises(ModelError, match="'bomb': Expand is not an operator that EdgeLM runs"):
        open_bundle(write_decoder_bundle(tmp_path / "bundle", edit=edit))


def test_files_off_the_manifest_cannot_be_reached(tmp_path: Path) -> None:
    bundle = open_bundle(write_decoder_bundle(tmp_path / "bundle"))
    (bundle.folder / "secret.txt").write_text("s")
    for name in ("secret.txt", "../bundle/config.json", MANIFEST_NAME, ""):
        for read in (bundle.path, bundle.read_json, lambda name: bundle.read_text(name, 10)):
            with pytest.raises(ModelError, match="bundle tiny has no "):
                read(name)


def test_texts_are_bounded_utf8(tmp_path: Path) -> None:
    files = {"long.txt": b"12345", "bad.txt": b"ab\xff"}
    bundle = open_bundle(write_decoder_bundle(tmp_path / "bundle", files=files))
    assert bundle.read_text("long.txt", 5) == "12345"
    with pytest.raises(ModelError, match=r"long\.txt in .* has more than the 4 bytes allowed"):
        bundle.read_text("long.txt", 4)
    with pytest.raises(ModelError, match=r"bad\.txt: not UTF-8 at byte 2"):
        bundle.read_text("bad.txt", 5)
    with pytest.raises(ModelError, match=r"bad\.txt: not UTF-8 at byte 2"):
        bundle.read_json("bad.txt")


def test_without_a_generation_config_the_defaults_hold(tmp_path: Path) -> None:
    folder = write_decoder_bundle(tmp_path / "bundle")
    (folder / "generation_config.json").unlink()
    assert open_bundle(seal(folder)).generation_defaults() == GenerationConfig()


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ([1], "must be a JSON object"),
        ({"temperature": -1}, "temperature must be at least 0"),
        ({"temperature": 10**400}, ""),
        ({"top_p": "high"}, "top_p must be a finite number"),
        ({"eos_token_id": [-2]}, "eos_token_id must be at least 0"),
        ({"eos_token_id": 1.5}, "eos_token_id must be a value or a list of values"),
        ({"eos_token_id": {"a": 1}}, "eos_token_id must be a value or a list of values"),
        ({"stop_strings": 7}, "a stop string must have 1 to 1024 characters"),
        ({"stop_strings": [""]}, "a stop string must have"),
        ({"top_k": [3] * 10_000}, "top_k must be an integer"),
    ],
)
def test_a_wrong_generation_config_is_refused(tmp_path: Path, values: Any, reason: str) -> None:
    files = {"generation_config.json": json.dumps(values).encode()}
    bundle = open_bundle(write_decoder_bundle(tmp_path / "bundle", files=files))
    with pytest.raises(ModelError, match=r"^generation_config\.json: ") as caught:
        bundle.generation_defaults()
    assert reason in str(caught.value)
    assert len(str(caught.value)) < 400


def test_fields_of_other_libraries_are_left_aside(tmp_path: Path) -> None:
    values = {"transformers_version": "4.57", "eos_token_id": [2, 7], "temperature": None, "top_h": 0}
    files = {"generation_config.json": json.dumps(values).encode()}
    bundle = open_bundle(write_decoder_bundle(tmp_path / "bundle", files=files))
    assert bundle.generation_defaults() == GenerationConfig(eos_token_id=(2, 7))


def test_opening_a_model_of_real_size_is_quick(tmp_path: Path) -> None:
    """425 nodes and 150 MB of stamped weights: about 20 ms; the bound leaves room for a busy machine."""
    folder = write_decoder_bundle(tmp_path / "bundle", TinyDecoder(layers=42))
    with (folder / WEIGHTS_NAME).open("r+b") as file:
        file.truncate(150_000_000)
    for path in seal(folder).iterdir():
        os.utime(path, (10**9, 10**9))
    open_bundle(folder, stamps=tmp_path / "stamps")
    times = []
    for _ in range(5):
        started = time.process_time()
        open_bundle(folder, stamps=tmp_path / "stamps")
        times.append(time.process_time() - started)
    assert min(times) < 0.1


def test_opening_loads_no_runtime(tmp_path: Path) -> None:
    folder = write_decoder_bundle(tmp_path / "bundle")
    code = (
        "import sys; from pathlib import Path; from edgelm.bundle.bundle import open_bundle; "
        "open_bundle(Path(sys.argv[1])); "
        "print(sorted({'onnx', 'onnxruntime', 'torch', 'tokenizers', 'google.protobuf'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(folder)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
