from __future__ import annotations

import struct
from pathlib import Path
from typing import NoReturn

import numpy as np
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from support.marian_files import marian_file, sentencepiece_file, tiny_tensors, vector, write_bergamot

from edgelm.errors import ClosedError, ModelError, UnsupportedModelError
from edgelm_tools.checkpoint import open_checkpoint
from edgelm_tools.checkpoint.bergamot_checkpoint import BergamotCheckpoint
from edgelm_tools.checkpoint.mapped_file import MappedFile
from edgelm_tools.checkpoint.marian_file import FLOAT32, read_table, settings

GOOD = marian_file(tiny_tensors(width=8, heads=1, inner=8, encoder=1, decoder=1))


def model_file(folder: Path) -> Path:
    (found,) = folder.glob("model*")
    return found


def test_a_folder_is_recognised_by_what_it_holds(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(write_bergamot(tmp_path))
    assert isinstance(checkpoint, BergamotCheckpoint)
    assert checkpoint.config["model_type"] == "bergamot"
    assert (checkpoint.config["source_language"], checkpoint.config["target_language"]) == ("en", "pt")
    assert (checkpoint.config["enc-depth"], checkpoint.config["tied-embeddings-all"]) == (2, True)
    assert "special:model.yml" not in checkpoint.names()
    checkpoint.close()
    with pytest.raises(ClosedError):
        checkpoint.tensor("Wemb")


def test_integers_are_carried_over_unchanged(tmp_path: Path) -> None:
    checkpoint = BergamotCheckpoint(write_bergamot(tmp_path))
    tensors = tiny_tensors()
    for name, shape in (("Wemb", checkpoint.shape("Wemb")), ("encoder_l1_ffn_W1", (40, 24))):
        data = tensors[name][2]
        steps = np.frombuffer(data[:-4], np.int8).reshape(shape)
        (multiplier,) = struct.unpack("<f", data[-4:])
        carried = checkpoint.quantized(name)
        assert carried is not None
        np.testing.assert_array_equal(carried.values, steps)
        assert (carried.block_size, carried.bits, carried.scales.shape) == (shape[1], 8, (shape[0], 1))
        np.testing.assert_allclose(checkpoint.tensor(name), steps / multiplier, rtol=1e-6)
        np.testing.assert_allclose(carried.scales, 1 / multiplier, rtol=1e-6)
    assert checkpoint.quantized("encoder_l1_ffn_b1") is None
    assert checkpoint.shape("encoder_l1_ffn_b1") == checkpoint.tensor("encoder_l1_ffn_b1").shape == (40,)


def test_matrices_in_floating_point_are_turned_the_same_way(tmp_path: Path) -> None:
    folder = write_bergamot(tmp_path)
    values = np.arange(24 * 40, dtype=np.float32).reshape(24, 40)
    tensors = tiny_tensors() | {"encoder_l1_ffn_W1": (FLOAT32, (24, 40), values.tobytes())}
    model_file(folder).write_bytes(marian_file(tensors))
    checkpoint = BergamotCheckpoint(folder)
    np.testing.assert_array_equal(checkpoint.tensor("encoder_l1_ffn_W1"), values.T)
    assert checkpoint.quantized("encoder_l1_ffn_W1") is None


def test_what_a_folder_must_hold(tmp_path: Path) -> None:
    folder = write_bergamot(tmp_path)
    (folder / "other.spm").write_bytes(sentencepiece_file())
    with pytest.raises(UnsupportedModelError, match="2 vocabularies"):
        open_checkpoint(folder)
    for path in folder.glob("*.spm"):
        path.unlink()
    with pytest.raises(ModelError, match="no vocabulary"):
        open_checkpoint(folder)
    (folder / "another.bin").write_bytes(GOOD)
    with pytest.raises(ModelError, match="2 Marian models"):
        open_checkpoint(folder)


@pytest.mark.parametrize("multiplier", [0.0, -1.0, float("nan"), float("inf"), 1e-45])
def test_a_multiplier_that_divides_nothing_is_refused(multiplier: float, tmp_path: Path) -> None:
    folder = write_bergamot(tmp_path)
    kind, shape, data = tiny_tensors()["Wemb"]
    tensors = tiny_tensors() | {"Wemb": (kind, shape, data[:-4] + struct.pack("<f", multiplier))}
    model_file(folder).write_bytes(marian_file(tensors))
    checkpoint = BergamotCheckpoint(folder)
    for read in (checkpoint.tensor, checkpoint.quantized):
        with pytest.raises(ModelError, match="multiplier"):
            read("Wemb")


def refusal(data: bytes, folder: Path) -> str:
    path = folder / "model.bin"
    path.write_bytes(data)
    with pytest.raises(ModelError) as caught:
        read_table(MappedFile(path))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_broken_files_are_refused(tmp_path: Path) -> None:
    assert "version 2" in refusal(b"\2" + GOOD[1:], tmp_path)
    assert "truncated" in refusal(GOOD[:-1], tmp_path)
    assert "the file at" in refusal(GOOD + b"\0", tmp_path)
    assert "truncated" in refusal(GOOD[:100], tmp_path)
    assert "tensors" in refusal(struct.pack("<QQ", 1, 0), tmp_path)
    assert "tensors" in refusal(struct.pack("<QQ", 1, 2**63), tmp_path)
    assert "type 0x808" in refusal(marian_file({"x": (0x808, (1, 1), b"12345678")}), tmp_path)
    assert "needs 12" in refusal(marian_file({"x": (FLOAT32, (3,), b"")}), tmp_path)
    assert "shape (0, 1)" in refusal(marian_file({"x": (FLOAT32, (0, 1), b"")}), tmp_path)
    assert "dimensions" in refusal(marian_file({"x": (FLOAT32, (1,) * 9, b"1234")}), tmp_path)
    assert "name" in refusal(marian_file({"": vector(np.ones(1, np.float32))}), tmp_path)
    double = marian_file({"x": vector(np.ones(1, np.float32)), "y": vector(np.ones(1, np.float32))})
    assert "twice" in refusal(double.replace(b"y\0", b"x\0"), tmp_path)
    huge = marian_file({"x": (FLOAT32, (2**31 - 1,) * 8, b"1234")})
    assert "needs" in refusal(huge, tmp_path)


@hypothesis_settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 2999), st.binary(min_size=1, max_size=8), st.integers(0, len(GOOD)))
def test_no_damage_leads_astray(tmp_path: Path, place: int, change: bytes, size: int) -> None:
    path = tmp_path / "model.bin"
    for data in (GOOD[:place] + change + GOOD[place + len(change) :], GOOD[:size] or b"x"):
        path.write_bytes(data)
        file = MappedFile(path)
        try:
            table = read_table(file)
        except ModelError:
            continue
        for tensor in table.values():
            assert 0 <= tensor.start <= tensor.start + tensor.length <= file.size


def test_settings_are_read_as_yaml_has_them() -> None:
    text = 'a: 1\nb: -2.5\nc: true\nd: ""\ne: "x: y"\nlist:\n  - z: 1\n- q: 2\nf: nan\ng: v1.9 2021\n# h: 1\n\ni: 1_0\n'
    assert dict(settings(text)) == {
        "a": 1,
        "b": -2.5,
        "c": True,
        "d": "",
        "e": "x: y",
        "f": "nan",
        "g": "v1.9 2021",
        "i": "1_0",
    }


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "model.bin").write_bytes(b"x")

    def fails(self: Path, *arguments: object) -> NoReturn:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", fails)
    with pytest.raises(ModelError, match=r"model.bin: cannot be read: Permission denied"):
        open_checkpoint(tmp_path)
