import os
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper
from support.bundles import (
    GRAPH_NAME,
    WEIGHTS_NAME,
    write_decoder_bundle,
)
from support.graph_refusals import check, refusal

from edgelm.errors import IntegrityError, ModelError


def weight(model: onnx.ModelProto, name: str) -> TensorProto:
    return next(tensor for tensor in model.graph.initializer if tensor.name == name)


def place(model: onnx.ModelProto, name: str, **entries: object) -> None:
    """Changes where a weight lies."""
    tensor = weight(model, name)
    values = {entry.key: entry.value for entry in tensor.external_data} | {k: str(v) for k, v in entries.items()}
    del tensor.external_data[:]
    for key, value in values.items():
        tensor.external_data.add(key=key, value=value)


def place_of(model: onnx.ModelProto, name: str) -> dict[str, int | str]:
    entries = {entry.key: entry.value for entry in weight(model, name).external_data}
    return {"location": entries["location"], "offset": int(entries["offset"]), "length": int(entries["length"])}


@pytest.mark.parametrize(
    ("location", "reason"),
    [
        ("../secret", "which is not a safe file name"),
        ("/etc/passwd", "which is not a safe file name"),
        ("a\\..\\b", "which is not a safe file name"),
        ("w\0.data", "which is not a safe file name: it has a control character"),
        ("*/_ORT_MEM_ADDR_/*", "which is not a safe file name"),
        ("", "which is not a safe file name: it is empty"),
        ("other.data", "which the manifest does not list"),
        ("edgelm.json", "which the manifest does not list"),
    ],
)
def test_weights_outside_the_listed_files_are_refused(tmp_path: Path, location: str, reason: str) -> None:
    text = refusal(tmp_path, lambda model: place(model, "head", location=location))
    assert "tensor 'head' lies in " in text
    assert reason in text


@pytest.mark.parametrize(
    ("entries", "reason"),
    [
        ({"offset": -64}, "tensor 'head' begins at the negative offset -64 of decoder.onnx.data"),
        ({"offset": 2**62}, f"tensor 'head' ends at byte {2**62 + 2048} of decoder.onnx.data, which has"),
        ({"offset": 9 * 10**18}, "tensor 'head' ends at byte 9000000000000002048"),
        ({"length": -1}, "tensor 'head' has -1 bytes in decoder.onnx.data, but its shape needs 2048"),
        ({"length": 2**62}, "but its shape needs 2048"),
        ({"length": 2047}, "tensor 'head' has 2047 bytes in decoder.onnx.data, but its shape needs 2048"),
        ({"length": "much"}, "length 'much' in the external data of tensor 'head'"),
    ],
)
def test_offsets_and_lengths_out_of_range_are_refused(tmp_path: Path, entries: dict[str, object], reason: str) -> None:
    assert reason in refusal(tmp_path, lambda model: place(model, "head", **entries))


def test_overlapping_weights_are_refused(tmp_path: Path) -> None:
    def edit(model: onnx.ModelProto) -> None:
        place(model, "head", offset=int(place_of(model, "embeddings")["offset"]) + 64)

    text = refusal(tmp_path, edit)
    assert "tensors 'embeddings' and 'head' overlap at byte " in text
    assert text.endswith(f" of {WEIGHTS_NAME}")


def test_two_tensors_may_share_one_place(tmp_path: Path) -> None:
    def edit(model: onnx.ModelProto) -> None:
        place(model, "head", **place_of(model, "embeddings"))

    shared = check(write_decoder_bundle(tmp_path / "shared", edit=edit))
    own = check(write_decoder_bundle(tmp_path / "own"))
    assert own.weight_bytes - shared.weight_bytes == 4 * 32 * 16


def test_a_missing_length_means_what_the_shape_needs(tmp_path: Path) -> None:
    def edit(model: onnx.ModelProto) -> None:
        entries = weight(model, "head").external_data
        del entries[next(i for i, entry in enumerate(entries) if entry.key == "length")]

    assert check(write_decoder_bundle(tmp_path / "bundle", edit=edit)).external_files == (WEIGHTS_NAME,)


@pytest.mark.parametrize(
    ("dtype", "dims", "size"),
    [
        (TensorProto.INT4, [3, 3], 5),
        (TensorProto.UINT4, [32], 16),
        (TensorProto.INT2, [5], 2),
        (TensorProto.FLOAT16, [3], 6),
        (TensorProto.UINT8, [0], 0),
        (TensorProto.DOUBLE, [], 8),
    ],
)
def test_sizes_of_packed_and_plain_types(tmp_path: Path, dtype: int, dims: list[int], size: int) -> None:
    def edit(model: onnx.ModelProto, length: int) -> None:
        tensor = TensorProto(name="extra", data_type=dtype, dims=dims, data_location=TensorProto.EXTERNAL)
        for key, value in {"location": "extra.data", "offset": 0, "length": length}.items():
            tensor.external_data.add(key=key, value=str(value))
        model.graph.initializer.append(tensor)

    extra = {"extra.data": b"\0" * 16}
    check(write_decoder_bundle(tmp_path / "right", edit=lambda model: edit(model, size), files=extra))
    wrong = write_decoder_bundle(tmp_path / "wrong", edit=lambda model: edit(model, size + 1), files=extra)
    with pytest.raises(ModelError, match=f"has {size + 1} bytes in extra.data, but its shape needs {size}"):
        check(wrong)


@pytest.mark.parametrize(
    ("tensor", "reason"),
    [
        (TensorProto(name="t", data_type=1, dims=[-1], raw_data=b""), "negative dimension"),
        (TensorProto(name="t", data_type=1, dims=[-1, -4], raw_data=b"\0" * 16), "negative dimension"),
        (TensorProto(name="t", data_type=0, dims=[1], raw_data=b"\0"), "element type 0"),
        (TensorProto(name="t", data_type=77, dims=[1], raw_data=b"\0"), "element type 77"),
        (TensorProto(name="t", data_type=8, dims=[1], string_data=[b"x"]), "element type 8"),
        (TensorProto(name="t", data_type=1, dims=[2], raw_data=b"\0" * 7), "7 bytes of data, but its shape needs 8"),
        (TensorProto(name="t", data_type=1, dims=[2**34], float_data=[0.0]), "4 bytes of data, too few for the shape"),
        (TensorProto(name="t", data_type=1, dims=[2**34]), "0 bytes of data, too few for the shape"),
        (TensorProto(name="t", data_type=7, dims=[2**62, 2**62], int64_data=[1]), "too few for the shape"),
    ],
)
def test_a_tensor_whose_data_does_not_fit_its_shape_is_refused(
    tmp_path: Path, tensor: TensorProto, reason: str
) -> None:
    def as_initializer(model: onnx.ModelProto) -> None:
        model.graph.initializer.append(tensor)

    def as_constant(model: onnx.ModelProto) -> None:
        model.graph.node.append(helper.make_node("Constant", [], ["c"], value=tensor))

    assert "tensor 't' has " in refusal(tmp_path / "a", as_initializer)
    assert reason in refusal(tmp_path / "b", as_constant)


def test_a_constant_may_not_lie_outside_either(tmp_path: Path) -> None:
    def edit(model: onnx.ModelProto) -> None:
        tensor = TensorProto(name="t", data_type=1, dims=[1], data_location=TensorProto.EXTERNAL)
        tensor.external_data.add(key="location", value="../secret")
        model.graph.node.append(helper.make_node("Constant", [], ["c"], value=tensor))

    assert "tensor 't' lies in '../secret', which is not a safe file name" in refusal(tmp_path, edit)


@pytest.mark.parametrize("name", [WEIGHTS_NAME, GRAPH_NAME])
def test_links_for_files_are_refused(tmp_path: Path, name: str) -> None:
    folder = write_decoder_bundle(tmp_path / "bundle")
    (folder / name).rename(tmp_path / "elsewhere")
    (folder / name).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(IntegrityError, match=f"{name} in .* is a symbolic link"):
        check(folder)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no named pipes")
def test_a_pipe_for_a_graph_does_not_hang(tmp_path: Path) -> None:
    folder = write_decoder_bundle(tmp_path / "bundle")
    (folder / GRAPH_NAME).unlink()
    os.mkfifo(folder / GRAPH_NAME)
    with pytest.raises(IntegrityError, match="not a regular file"):
        check(folder)


def test_a_weight_file_of_another_size_is_refused_with_both(tmp_path: Path) -> None:
    folder = write_decoder_bundle(tmp_path / "bundle")
    size = (folder / WEIGHTS_NAME).stat().st_size
    os.truncate(folder / WEIGHTS_NAME, size - 1)
    with pytest.raises(IntegrityError, match=f"has {size - 1} bytes, not the {size} of the manifest"):
        check(folder)
