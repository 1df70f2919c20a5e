"""The tree of errors: as drawn, each also a built-in, each with its exit code."""

from __future__ import annotations

import builtins
import inspect
import re
from dataclasses import dataclass

import pytest

from edgelm import errors
from edgelm.errors import EdgeLMError

# A drawing's line: "│   ├── Name (Builtin)    2  what it is"; built-in and exit code may be left out.
_LINE = re.compile(r"(?P<indent>[│├└─\s]*)(?P<name>[A-Z]\w+)(?: \((?P<builtin>\w+)\))?(?P<rest>.*)")


@dataclass(frozen=True)
class Drawn:
    name: str
    parent: str | None
    builtin: str | None
    exit_code: int


def drawing() -> list[Drawn]:
    """The tree as the module's docstring draws it; a class without an exit code has its parent's."""
    rows: list[Drawn] = []
    path: list[Drawn] = []
    lines = (errors.__doc__ or "").split("\n\n", 1)[1].splitlines()
    for line in filter(str.strip, lines):
        match = _LINE.fullmatch(line)
        assert match, line
        del path[len(match["indent"]) // 4 :]
        parent = path[-1] if path else None
        code = re.match(r"\s+(?:exit code )?(\d+)(?:\s|$)", match["rest"])
        drawn = Drawn(
            name=match["name"],
            parent=parent.name if parent else None,
            builtin=match["builtin"],
            exit_code=int(code[1]) if code else parent.exit_code if parent else -1,
        )
        rows.append(drawn)
        path.append(drawn)
    return rows


def classes() -> dict[str, type[EdgeLMError]]:
    return {
        name: kind
        for name, kind in vars(errors).items()
        if inspect.isclass(kind) and issubclass(kind, EdgeLMError) and kind.__module__ == errors.__name__
    }


def test_the_drawing_names_every_class_once():
    names = [drawn.name for drawn in drawing()]
    assert sorted(names) == sorted(classes())
    assert len(names) > 15


@pytest.mark.parametrize("drawn", drawing(), ids=lambda drawn: drawn.name)
def test_a_class_is_as_drawn(drawn):
    kind = classes()[drawn.name]
    bases = [base.__name__ for base in kind.__bases__]
    expected = [drawn.parent or "Exception", *([drawn.builtin] if drawn.builtin else [])]
    assert bases == expected
    assert kind.exit_code == drawn.exit_code
    assert kind.__doc__


@pytest.mark.parametrize("drawn", drawing()[1:], ids=lambda drawn: drawn.name)
def test_a_caller_may_catch_the_built_in(drawn):
    kind = classes()[drawn.name]
    if drawn.builtin is None:
        assert any(base.__module__ == "builtins" and base is not Exception for base in kind.__mro__[1:-3])
        return
    with pytest.raises(getattr(builtins, drawn.builtin), match=r"^what is wrong$"):
        raise kind("what is wrong")


def test_the_exit_codes_are_those_of_the_command_line():
    by_code: dict[int, set[str]] = {}
    for name, kind in classes().items():
        by_code.setdefault(kind.exit_code, set()).add(name)
    assert set(by_code) == {1, 2, 3, 4, 130}
    assert by_code[3] == {"MemoryLimitError"}
    assert by_code[4] == {"StorageError"}
    assert by_code[130] == {"CancelledError"}
    assert {"ModelNotFoundError", "ContextLengthError", "ConfigError"} <= by_code[2]
