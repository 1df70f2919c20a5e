"""Shared by the tests of graph checks: what ``check_graph`` says of the tiny decoder after an edit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from support.bundles import GRAPH_NAME, write_decoder_bundle

from edgelm.bundle.graph_check import GraphInfo, check_graph
from edgelm.bundle.manifest import MANIFEST_NAME, Manifest, parse_manifest
from edgelm.errors import ModelError

Edit = Callable[[onnx.ModelProto], None]


def manifest_of(folder: Path) -> Manifest:
    return parse_manifest((folder / MANIFEST_NAME).read_bytes())


def check(folder: Path) -> GraphInfo:
    return check_graph(folder, GRAPH_NAME, manifest_of(folder))


def refusal(tmp_path: Path, edit: Edit) -> str:
    folder = write_decoder_bundle(tmp_path / "bundle", edit=edit)
    with pytest.raises(ModelError) as caught:
        check(folder)
    assert str(caught.value).startswith(f"{GRAPH_NAME}: ")
    assert "\n" not in str(caught.value)
    return str(caught.value)
