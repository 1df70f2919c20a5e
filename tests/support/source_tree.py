"""The project's own sources, as syntax trees, for tests of its structure."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# Where the packages that are installed lie in the tree.
FOLDERS = {"edgelm": "edgelm", "edgelm_models": "models", "edgelm_tools": "tools"}


@cache
def modules(package: str) -> dict[str, ast.Module]:
    """Dotted name → syntax tree, of all modules of a package."""
    folder = ROOT / FOLDERS[package]
    trees = {}
    for path in sorted(folder.rglob("*.py")):
        parts = path.relative_to(folder).with_suffix("").parts
        name = ".".join((package, *parts)).removesuffix(".__init__")
        trees[name] = ast.parse(path.read_text(encoding="utf-8"), str(path))
    return trees


def imports(tree: ast.Module) -> Iterator[str]:
    """What a module imports: at its top, inside functions, for types only, or with ``import_module("…")``.

    ``from a import b`` gives ``a.b``, as ``b`` may be a module.
    """
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute here"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and _name_of_call(node) == "import_module" and node.args:
            argument = node.args[0]
            if isinstance(argument, ast.Constant):
                yield str(argument.value)


def is_of(imported: str, package: str) -> bool:
    """Whether an import is the package, or something in it."""
    return imported == package or imported.startswith(f"{package}.")


def _name_of_call(call: ast.Call) -> str:
    function = call.func
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
