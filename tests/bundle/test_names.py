from pathlib import PurePosixPath, PureWindowsPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgelm.bundle.names import name_fault, name_key, path_fault


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


@pytest.mark.parametrize(
    "path", ["config.json", "1_Pooling/config.json", "._config.json", "a/..b/c", "results_2024-05-01T12:00:00.json"]
)
def test_paths_of_repositories_are_their_authors(path: str) -> None:
    assert path_fault(path) is None


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        *((path, "absolute, or has a part") for path in ("", "/a", "a//b", "a/", "..", "../a", "1_x/../../a", "a/./b")),
        *((path, "absolute, or has a part") for path in ("a/.. /b", "a/.../b", "a/ /b")),
        *((path, "a backslash or a NUL") for path in ("a\\b", "\\\\host\\a", "C:\\a", "a\0b")),
        *((path, "a drive letter") for path in ("C:", "c:a.json", "C:/a")),
    ],
)
def test_paths_that_lead_elsewhere_are_not_safe(path: str, reason: str) -> None:
    assert reason in (path_fault(path) or "")


@given(st.text(alphabet="./\\:ac \0", max_size=8))
def test_a_safe_path_stays_in_its_folder_on_every_system(path: str) -> None:
    if path_fault(path) is None:
        for joined in (PurePosixPath("folder", path), PureWindowsPath("folder", path)):
            assert joined.parts[0] == "folder"
            assert joined.parts[1:] == tuple(path.split("/"))


def test_names_that_some_file_system_takes_for_one_share_a_key() -> None:
    assert name_key("Model.ONNX") == name_key("model.onnx")
    assert name_key("é") == name_key("e\u0301")
    assert name_key("a") != name_key("b")
