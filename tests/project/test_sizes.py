"""Files and functions stay small enough to be read, and nothing large gets into git."""

from __future__ import annotations

import ast
import subprocess
from pathlib import Path

import pytest
from support.source_tree import ROOT

MOST_BYTES = 1 << 20
MOST_LINES_OF_A_FILE = 400
MOST_LINES_OF_A_FUNCTION = 60
TOP_LEVEL = {"LICENSE", "README.md", "edgelm", "models", "pyproject.toml", "tests", "tools"}


@pytest.fixture(scope="module")
def files() -> list[Path]:
    """What git keeps; in a tree without git: what is not hidden or made."""
    if (ROOT / ".git").exists():
        command = ["git", "-C", str(ROOT), "-c", f"safe.directory={ROOT}", "ls-files", "-z"]
        names = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        found = [ROOT / name for name in names.split("\0") if name]
    else:
        found = [path for name in TOP_LEVEL for path in [ROOT / name, *(ROOT / name).rglob("*")]]
    return [path for path in found if path.is_file() and "__pycache__" not in path.parts]


def test_no_file_is_large(files: list[Path]) -> None:
    assert [path for path in files if path.stat().st_size > MOST_BYTES] == []


def test_the_top_level_holds_what_belongs_there(files: list[Path]) -> None:
    top = {path.relative_to(ROOT).parts[0] for path in files}
    assert {name for name in top if not name.startswith(".")} == TOP_LEVEL


def test_no_source_file_is_long(files: list[Path]) -> None:
    sources = [path for path in files if path.suffix == ".py"]
    assert sources
    lines = {path: path.read_text(encoding="utf-8").count("\n") for path in sources}
    assert {path: count for path, count in lines.items() if count > MOST_LINES_OF_A_FILE} == {}


def test_no_function_is_long(files: list[Path]) -> None:
    long = []
    for path in (path for path in files if path.suffix == ".py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or node.lineno) - node.lineno + 1
                if lines > MOST_LINES_OF_A_FUNCTION:
                    long.append(f"{path.relative_to(ROOT)}:{node.lineno} {node.name}: {lines} lines")
    assert long == []
