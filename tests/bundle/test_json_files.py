"""The JSON files of a model are read as far as real ones go, and no further."""

import json
from pathlib import Path

import pytest
from support.bundles import seal, write_decoder_bundle
from support.foreign_graphs import CONFIG, write_folder
from support.foreign_graphs import decoder as foreign_decoder

from edgelm.bundle.bundle import open_bundle
from edgelm.bundle.json_files import json_limit, load_json_file
from edgelm.bundle.layouts.listing import list_folder
from edgelm.bundle.layouts.sentence_transformers import module_paths
from edgelm.bundle.manifest import MAX_LABELS
from edgelm.errors import ManifestError, ModelError


def empty_lists(count: int) -> bytes:
    return b'{"a": [' + b"[]," * count + b"[]]}"


def test_the_largest_of_real_files_are_read() -> None:
    by_id = {str(number): f"a label of many words and the number {number}" for number in range(MAX_LABELS)}
    labels = {"id2label": by_id, "label2id": {label: int(number) for number, label in by_id.items()}}
    assert load_json_file(json.dumps(labels, indent=2).encode(), "config.json") == labels
    flags = dict.fromkeys(("lstrip", "normalized", "rstrip", "single_word", "special"), False)
    added = {"added_tokens_decoder": {str(number): {"content": f"<unused{number}>", **flags} for number in range(6500)}}
    assert load_json_file(json.dumps(added, indent=2).encode(), "tokenizer_config.json") == added
    suppressed = {"suppress_tokens": list(range(10_000)), "bad_words_ids": [[number] for number in range(10_000)]}
    assert load_json_file(json.dumps(suppressed).encode(), "generation_config.json") == suppressed


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json", "generation_config.json", "modules.json"])
def test_values_are_counted_before_they_are_made(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgelm.bundle.strict_json.json.loads", lambda *_, **__: pytest.fail("was read"))
    data = empty_lists(json_limit(name) // 64)
    assert len(data) < json_limit(name)
    with pytest.raises(ManifestError, match=rf"^{name}: more than the \d+ values allowed$"):
        load_json_file(data, name)


def test_the_files_of_a_bundle_are_bounded(tmp_path: Path) -> None:
    folder = write_decoder_bundle(tmp_path / "bundle", files={"generation_config.json": empty_lists(20_000)})
    with pytest.raises(ModelError, match=r"generation_config\.json: more than the 32768 values allowed"):
        open_bundle(folder).generation_defaults()
    (folder / "generation_config.json").write_bytes(b" " * (1 << 20) + b"{}")
    with pytest.raises(ModelError, match=r"generation_config\.json in .* more than the 1048576 bytes allowed"):
        open_bundle(seal(folder)).generation_defaults()


def test_the_files_of_another_tools_folder_are_bounded(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    write_folder(folder, {"model.onnx": foreign_decoder(), "config.json": CONFIG})
    (folder / "generation_config.json").write_bytes(empty_lists(20_000))
    with pytest.raises(ModelError, match=r"generation_config\.json: more than the 32768 values allowed"):
        list_folder(folder).optional_object("generation_config.json")
    with pytest.raises(ModelError, match=r"modules\.json: more than the 32768 values allowed"):
        module_paths(empty_lists(20_000))
