from pathlib import PurePosixPath, PureWindowsPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgelm.bundle.names import name_fault, name_key


@pytest.mark.parametrize(
    "name", ["decoder.onnx", "decoder.onnx.data", "tokenizer.json", "a b", "modèle.onnx", "模型", "README", "con1.txt"]
)
def test_plain_names_are_safe(name: str) -> None:
    assert name_fault(name) is None


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("", "is empty"),
        (".", "begins with a dot"),
        ("..", "begins with a dot"),
        (".hidden", "begins with a dot"),
        ("../x", "plain name"),
        ("/etc/passwd", "plain name"),
        ("a/b", "plain name"),
        ("a\\..\\b", "plain name"),
        ("C:", "plain name"),
        ("C:x", "plain name"),
        ("x:stream", "plain name"),
        ("*/_ORT_MEM_ADDR_/*", "plain name"),
        ("a\0b", "control character"),
        ("a\nb", "control character"),
        ("a\x1b[31mb", "control character"),
        ("a\u202eb", "control character"),
        ("a\ud800b", "control character"),
        ("x.", "ends with"),
        ("x ", "ends with"),
        ("NUL", "device name"),
        ("con.json", "device name"),
        ("Com1.onnx.data", "device name"),
        ("LPT² .x", "device name"),
        ("x" * 256, "longer than 255 bytes"),
        ("é" * 128, "longer than 255 bytes"),
    ],
)
def test_names_that_lead_elsewhere_are_not(name: str, reason: str) -> None:
    assert reason in (name_fault(name) or "")


@given(st.text(max_size=12) | st.text(alphabet="./\\:ac\0", max_size=6))
def test_a_safe_name_is_one_component_on_every_system(name: str) -> None:
    if name_fault(name) is None:
        for path in (PurePosixPath("folder", name), PureWindowsPath("folder", name)):
            assert path.name == name
            assert len(path.parts) == 2


def test_names_that_some_file_system_takes_for_one_share_a_key() -> None:
    assert name_key("Model.ONNX") == name_key("model.onnx")
    assert name_key("é") == name_key("e\u0301")
    assert name_key("a") != name_key("b")
