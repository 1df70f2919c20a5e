"""Dependencies point one way, floor by floor, and each foreign package has one place."""

from __future__ import annotations

import ast

import pytest
from support.source_tree import imports, is_of, modules

# From the ground up; what shares a floor does not know of each other.
FLOORS = (
    {"edgelm.errors", "edgelm.results"},
    {"edgelm.checks"},
    {"edgelm.config_values", "edgelm.sizes"},
    {"edgelm.config"},
    {"edgelm.bundle", "edgelm.text"},
    {"edgelm.runtime", "edgelm.tool_calls"},
    {"edgelm.generation"},
    {"edgelm.text_stream", "edgelm.text_side"},
    {"edgelm.batch_answers", "edgelm.speculation", "edgelm.guiding", "edgelm.generation_requests"},
    {"edgelm.answer_memory"},
    {"edgelm.generator", "edgelm.batched_encoder", "edgelm.loaded_model", "edgelm.call_settings", "edgelm.first_open"},
    {"edgelm.first_open_child"},
    {"edgelm.chat_model", "edgelm.cached_model"},
    {"edgelm.inspection.explain"},
    {"edgelm.language_model", "edgelm.encoder_model"},
    {"edgelm.tasks", "edgelm.inspection", "edgelm.prompt_parts", "edgelm.replay"},
    {"edgelm.benchmark", "edgelm.comparison"},
    {"edgelm_tools"},
    {"edgelm.cli"},
    {"edgelm.__main__"},
)
FLOOR_OF = {part: floor for floor, parts in enumerate(FLOORS) for part in parts}
# The package itself is its face: as high as what it shows, though it imports that only when asked.
FACE = FLOOR_OF["edgelm.language_model"]
# The catalog is data: any part may read it, and it reads nothing.
OURS = ("edgelm", "edgelm_tools")

# Foreign package → the only modules that may import it.
HOMES = {
    "onnxruntime": {"edgelm.runtime.session"},
    "tokenizers": {"edgelm.text", "edgelm_tools"},
    "jinja2": {"edgelm.text"},
    "llguidance": {"edgelm.text.grammar"},
    "huggingface_hub": {"edgelm.bundle.hub_source"},
    "click": {
        "edgelm.cli",
        "edgelm_tools.benchmark",
        "edgelm_tools.benchmark_batches",
        "edgelm_tools.benchmark_guesses",
        "edgelm_tools.benchmark_memory",
        "edgelm_tools.synthetic_checkpoint",
    },
    "onnx": {"edgelm_tools"},
    "gguf": {"edgelm_tools.checkpoint"},
    "torch": {"edgelm_tools.optimum_export"},
    "transformers": {"edgelm_tools.optimum_export"},
    "optimum": {"edgelm_tools.optimum_export"},
}

ALL = modules("edgelm") | modules("edgelm_tools")


def part_of(name: str) -> str | None:
    """The part of the product that a dotted name belongs to; None: the package itself, or not ours."""
    return next((part for part in FLOOR_OF if is_of(name, part)), None)


def floor_of(name: str) -> int:
    part = part_of(name)
    return FACE if part is None else FLOOR_OF[part]


def test_every_module_has_a_floor() -> None:
    homeless = [name for name in ALL if part_of(name) is None and name != "edgelm"]
    assert homeless == []


@pytest.mark.parametrize("name", sorted(name for name in ALL if name != "edgelm"))
def test_nothing_reaches_up_or_aside(name: str) -> None:
    allowed_above = {"edgelm_tools"} if is_of(name, "edgelm.cli") else set()
    own = part_of(name)
    for imported in imports(ALL[name]):
        if not any(is_of(imported, package) for package in OURS) or part_of(imported) == own:
            continue
        below = floor_of(imported) < floor_of(name) or part_of(imported) in allowed_above
        assert below or imported == "edgelm.__version__", f"{name} imports {imported}"


def test_only_one_module_of_the_command_line_reaches_for_the_tools() -> None:
    users = {name for name, tree in ALL.items() if is_of(name, "edgelm") and _imports_tools(tree)}
    assert users == {"edgelm.cli.toolbox"}


def _imports_tools(tree: ast.Module) -> bool:
    return any(is_of(imported, "edgelm_tools") for imported in imports(tree))


@pytest.mark.parametrize("package", HOMES)
def test_a_foreign_package_is_imported_in_its_own_place_only(package: str) -> None:
    users = {name for name, tree in ALL.items() if any(is_of(imported, package) for imported in imports(tree))}
    strangers = {name for name in users if not any(is_of(name, home) for home in HOMES[package])}
    assert strangers == set()
    assert users or not HOMES[package], f"nothing imports {package} any more: take it off the list"


def test_generation_knows_neither_text_nor_graphs() -> None:
    known = {part_of(imported) for name in ALL if is_of(name, "edgelm.generation") for imported in imports(ALL[name])}
    assert known <= {None, "edgelm.errors", "edgelm.config", "edgelm.runtime", "edgelm.generation"}


def test_the_catalog_is_data() -> None:
    assert [list(imports(tree)) for tree in modules("edgelm_models").values()] == [[]]
