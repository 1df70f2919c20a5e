"""Files with weights: memory is counted for every one of them, whatever it is called, or the graph is refused."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto
from support.bundles import WEIGHTS_NAME, decoder_manifest, write_decoder_bundle
from support.foreign_graphs import BERT, encoder, write_folder
from support.graph_refusals import check, manifest_of

from edgelm.bundle.bundle import open_bundle
from edgelm.bundle.manifest import EmbeddingFile
from edgelm.bundle.weight_files import weight_files
from edgelm.errors import ModelError

TABLE, SCALES = "table.bin", "scales.bin"
DATA = b"\0" * 32 * 20


def add_weight(model: onnx.ModelProto, name: str) -> None:
    """Gives the model a weight more, which lies in that file."""
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[4], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value=name)
    model.graph.initializer.append(tensor)


def bundle(folder: Path, name: str) -> Path:
    sizes = decoder_manifest()
    assert sizes.kv is not None
    return write_decoder_bundle(
        folder,
        edit=partial(add_weight, name=name),
        files={TABLE: DATA, SCALES: b"\0" * sizes.kv.scales_bytes(), name: DATA[: sizes.kv.scales_bytes()]},
        embedding=EmbeddingFile(TABLE, rows=sizes.vocab_size, columns=16),
        kv=replace(sizes.kv, scales=SCALES),
    )


@pytest.mark.parametrize("name", ["decoder.weights", "onnx__MatMul_123", "model.onnx_data_1", "weights.JSON"])
def test_weights_may_lie_in_files_of_any_other_name(tmp_path: Path, name: str) -> None:
    edit = partial(add_weight, name=name)
    folder = write_decoder_bundle(tmp_path / "bundle", edit=edit, files={name: DATA})
    assert set(check(folder).external_files) == set(weight_files(manifest_of(folder))) == {WEIGHTS_NAME, name}


@pytest.mark.parametrize("name", [TABLE, SCALES, "weights.json", "weights.jinja", "weights.txt", "weights.md"])
def test_weights_that_would_not_be_counted_are_refused(tmp_path: Path, name: str) -> None:
    folder = bundle(tmp_path / "bundle", name)
    assert set(weight_files(manifest_of(folder))) == {WEIGHTS_NAME}
    with pytest.raises(ModelError, match=f"decoder.onnx: has weights in '{name}'; they may lie in the graph or in"):
        check(folder)


def test_so_are_those_in_a_text_of_another_tools_folder(tmp_path: Path) -> None:
    def folder(name: str) -> Path:
        model = encoder()
        add_weight(model, name)
        return write_folder(tmp_path / name, {"config.json": BERT, "onnx/model.onnx": model, f"onnx/{name}": "w" * 16})

    assert set(weight_files(open_bundle(folder("onnx__MatMul_1")).manifest)) == {"onnx/onnx__MatMul_1"}
    with pytest.raises(ModelError, match=r"model.onnx: has weights in 'onnx/words.txt'; they may lie in"):
        open_bundle(folder("words.txt"))
