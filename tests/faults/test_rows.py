"""Every row of the table of faults has the test that it names, and the case of it."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

import pytest
from support.fault_rows import ROWS

_TESTS = Path(__file__).parents[1]
_PLACES = [(group, row, place) for group, rows in ROWS.items() for row, place in rows.items()]


@cache
def contents(module: str) -> tuple[frozenset[str], frozenset[str]]:
    """The names of a module's tests, and all texts in it."""
    nodes = list(ast.walk(ast.parse((_TESTS / module).read_text(encoding="utf-8"))))
    tests = (node.name for node in nodes if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"))
    texts = (node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str))
    return frozenset(tests), frozenset(texts)


@pytest.mark.parametrize(("row", "place"), [(f"{group}: {row}", place) for group, row, place in _PLACES])
def test_a_row_has_its_test(row: str, place: str) -> None:
    module, _, rest = place.partition("::")
    name, _, case = rest.partition("[")
    tests, texts = contents(module)
    assert name in tests, row
    assert not case or case.removesuffix("]") in texts, row


def test_no_two_rows_have_one_case() -> None:
    places = [place for _, _, place in _PLACES]
    assert len(set(places)) == len(places)
