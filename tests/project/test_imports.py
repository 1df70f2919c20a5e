"""The public names, and what importing them costs."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys

import pytest

import edgelm

PUBLIC = [
    "Chunk",
    "EdgeLMError",
    "EncoderModel",
    "GenerationConfig",
    "GenerationResult",
    "LanguageModel",
    "PromptTemplate",
    "RuntimeConfig",
    "TextStream",
    "__version__",
    "attention_maps",
    "compare",
    "load",
    "load_encoder",
    "pipeline",
    "pull",
]
HEAVY = ("jinja2", "numpy", "onnx", "onnxruntime", "optimum", "tokenizers", "torch", "transformers")
NEVER = ("onnx", "optimum", "torch", "transformers")

PROBE = """
import json, sys, time
before = time.perf_counter()
{statement}
print(json.dumps({{"seconds": time.perf_counter() - before, "modules": sorted(sys.modules)}}))
"""


def imported_by(statement: str) -> set[str]:
    """The modules that a fresh interpreter has loaded after a statement; prints how long it took."""
    code = PROBE.format(statement=statement)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    result = json.loads(done.stdout)
    print(f"{statement}: {result['seconds'] * 1000:.1f} ms")  # noqa: T201
    return set(result["modules"])


def test_public_names_are_pinned() -> None:
    assert edgelm.__all__ == PUBLIC
    assert dir(edgelm) == PUBLIC
    assert all(getattr(edgelm, name) is not None for name in PUBLIC)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match=r"module 'edgelm' has no attribute 'nonsense'"):
        edgelm.nonsense  # noqa: B018


def test_the_version_is_that_of_the_package() -> None:
    assert importlib.metadata.version("edgelm") == edgelm.__version__


def test_importing_edgelm_loads_nothing_heavy() -> None:
    assert imported_by("import edgelm") & set(HEAVY) == set()


def test_settings_and_errors_load_nothing_heavy() -> None:
    loaded = imported_by("from edgelm import GenerationConfig, RuntimeConfig, EdgeLMError")
    assert loaded & set(HEAVY) == set()


def test_the_runtime_loads_the_text_side_only_when_it_is_needed() -> None:
    loaded = imported_by("from edgelm import load, load_encoder, LanguageModel, EncoderModel")
    assert loaded & {*NEVER, "tokenizers", "jinja2"} == set()
    assert "onnxruntime" in loaded


def test_the_help_page_loads_nothing_heavy() -> None:
    statement = "import contextlib, io, edgelm.cli\nwith contextlib.suppress(SystemExit), "
    statement += "contextlib.redirect_stdout(io.StringIO()):\n    sys.argv = ['edgelm', '--help']; edgelm.cli.main()"
    assert imported_by(statement) & set(HEAVY) == set()


def test_the_converter_needs_neither_torch_nor_transformers() -> None:
    loaded = imported_by("import edgelm_tools.export")
    assert loaded & {"torch", "transformers", "optimum"} == set()
    assert "onnx" in loaded
