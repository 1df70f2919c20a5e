"""Schemas are those of transformers' ``get_json_schema``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from support.tools import TOOLS

from edgelm.tool_calls.schema import function_schema

pytest.importorskip("transformers")
pytestmark = pytest.mark.reference


@pytest.mark.parametrize("function", TOOLS, ids=lambda function: function.__name__)
def test_schemas_are_those_of_transformers(function: Callable[..., Any]) -> None:
    from transformers.utils import get_json_schema

    expected = get_json_schema(function)
    assert function_schema(function) == expected
    assert list(function_schema(function)["function"]) == list(expected["function"])
