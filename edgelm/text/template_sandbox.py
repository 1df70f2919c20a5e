"""The Jinja environment that chat templates run in: transformers' dialect, in a sandbox that also limits resources.

Jinja's own sandbox keeps a template from Python's internals. On top of it, every loop round, call and filter, and each
member that a filter goes over, looks at the clock, every value that the template makes is measured, and what multiplies
(``*``, ``**``, ``replace``, ``join``, padding, formatting, splitting, searching) is estimated first. Filters and
methods that no chat template needs do not exist.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import wraps
from typing import Any, NoReturn, cast

from jinja2 import nodes, pass_context
from jinja2.ext import Extension, LoopControlExtension
from jinja2.parser import Parser
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.tests import TESTS
from jinja2.visitor import NodeTransformer

from edgelm.errors import TemplateError
from edgelm.text import template_limits as limits
from edgelm.text.template_functions import FILTERS, GLOBALS, charged, finalize, ticking

_STRING_METHODS = frozenset(
    """
    capitalize casefold center count endswith expandtabs find format format_map index isalnum isalpha isascii isdecimal
    isdigit isidentifier islower isnumeric isprintable isspace istitle isupper join ljust lower lstrip partition
    removeprefix removesuffix replace rfind rindex rjust rpartition rsplit rstrip split splitlines startswith strip
    swapcase title upper zfill
    """.split()  # noqa: SIM905
)

# Names of the filters that `_Instrument` puts in: no template can write them.
_TICK, _CONCAT, _VALUE, _ITEM, _MEMBERS = "<tick>", "<concat>", "<value>", "<item>", "<members>"


class TemplateSandbox(ImmutableSandboxedEnvironment):
    """Compiles and runs chat templates; made once a template, shared by all threads."""

    intercepted_binops = frozenset(ImmutableSandboxedEnvironment.default_binop_table)

    def __init__(self) -> None:
        # Without the optimizer nothing of the template is computed while it is compiled.
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            optimized=False,
            finalize=finalize,
            extensions=[_GenerationTag, LoopControlExtension],
        )
        self.filters = FILTERS | {_TICK: _tick, _CONCAT: _concat, _VALUE: _value, _ITEM: _item, _MEMBERS: _members}
        tests = cast("dict[str, Callable[..., Any]]", TESTS)
        self.tests = {name: ticking(function) for name, function in tests.items()}
        del self.globals["lipsum"]
        self.globals |= GLOBALS

    @staticmethod
    def concat(parts: Iterable[str]) -> str:
        """Puts together the body of a ``set``, ``macro``, ``call`` or ``filter`` block."""
        return str(charged("".join(limits.joinable("", parts))))

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree = super()._parse(source, name, filename)
        _Instrument().visit(tree)
        tree.set_environment(self)
        return tree

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        """As Jinja's sandbox; and of a string only the methods listed here, of a number none."""
        if isinstance(obj, str):
            return attr in _STRING_METHODS
        return not isinstance(obj, (int, float)) and super().is_safe_attribute(obj, attr, value)

    def unsafe_undefined(self, obj: Any, attribute: str) -> NoReturn:
        """Refuses at once, where Jinja's sandbox would print nothing."""
        raise TemplateError(
            f"the chat template reaches for {attribute!r} of a {type(obj).__name__}; that is not allowed"
        )

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """Estimates, computes, measures."""
        limits.check_operator(operator, left, right)
        return charged(super().call_binop(context, operator, left, right))

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        """Jinja's safe ``str.format``, estimated first."""
        wrapped = super().wrap_str_format(value)
        if wrapped is None:
            return None
        inner = wrapped
        pattern = str(value.__self__)

        @wraps(inner)
        def estimated(*args: Any, **kwargs: Any) -> str:
            limits.check_brace_format(pattern, args, kwargs)
            return inner(*args, **kwargs)

        return estimated

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N805
        """Calls a function, macro or method; those of strings that multiply are estimated first."""
        limits.current_meter().tick()
        owner = getattr(__obj, "__self__", None)
        if isinstance(owner, str):
            args = _checked_arguments(owner, __obj.__name__, args, kwargs)
        elif args and (__obj is dict or owner is dict):
            args = (limits.members(args[0]), *args[1:])  # integers that collide take long to become keys
        return charged(super().call(__context, __obj, *args, **kwargs))


class _GenerationTag(Extension):
    """``{% generation %}…{% endgeneration %}``: marks the assistant's words for training; here only a scope."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body, lineno=line)


class _Instrument(NodeTransformer):
    """Puts the meter into a template's syntax tree where Jinja offers no hook."""

    def visit_For(self, node: nodes.For) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        tick = nodes.ExprStmt(_filter(nodes.Const(None), _TICK, node.lineno), lineno=node.lineno)
        node.body.insert(0, tick)
        if node.test is not None:
            node.test = _filter(node.test, _TICK, node.lineno)
        return node

    def visit_Call(self, node: nodes.Call) -> nodes.Node:  # noqa: N802
        return self._with_counted_arguments(node)

    def visit_Filter(self, node: nodes.Filter) -> nodes.Node:  # noqa: N802
        return self._with_counted_arguments(node)

    def visit_Test(self, node: nodes.Test) -> nodes.Node:  # noqa: N802
        return self._with_counted_arguments(node)

    def _with_counted_arguments(self, node: nodes.Call | nodes.Filter | nodes.Test) -> nodes.Node:
        """``f(*members)``: Python puts them into a tuple before anything can look at it."""
        self.generic_visit(node)
        if node.dyn_args is not None:
            node.dyn_args = _filter(node.dyn_args, _MEMBERS, node.lineno)
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        return _filter(nodes.List(node.nodes, lineno=node.lineno), _CONCAT, node.lineno)

    def visit_List(self, node: nodes.List) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        return _filter(node, _VALUE, node.lineno)

    def visit_Tuple(self, node: nodes.Tuple) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        return node if node.ctx == "store" else _filter(node, _VALUE, node.lineno)

    visit_Dict = visit_List  # noqa: N815

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        return _filter(node, _VALUE, node.lineno) if isinstance(node.arg, nodes.Slice) else node

    def visit_Compare(self, node: nodes.Compare) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        return _filter(node, _TICK, node.lineno)

    def visit_Assign(self, node: nodes.Assign) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        if isinstance(node.target, nodes.NSRef):
            node.node = _filter(node.node, _ITEM, node.lineno)
        return node


def _filter(node: nodes.Node, name: str, line: int) -> nodes.Filter:
    return nodes.Filter(node, name, [], [], None, None, lineno=line)


# `pass_context` keeps Jinja from computing these while it compiles.
@pass_context
def _tick(_: Context, value: Any) -> Any:
    limits.current_meter().tick()
    return value


@pass_context
def _concat(_: Context, parts: list[Any]) -> str:
    texts = limits.joinable("", (str(part) for part in parts))
    return str(charged("".join(texts)))


@pass_context
def _value(_: Context, value: Any) -> Any:
    return charged(value)


@pass_context
def _item(_: Context, value: Any) -> Any:
    """What is put into a namespace: data, measured as a member of a container is."""
    return charged([value])[0]


@pass_context
def _members(_: Context, value: Any) -> Any:
    return limits.members(value)


def _checked_arguments(owner: str, method: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, ...]:
    if method in ("center", "ljust", "rjust", "zfill"):
        limits.check_width(args[0] if args else None)
    elif method == "expandtabs":
        limits.check_tabs(owner, args[0] if args else kwargs.get("tabsize", 8))
    elif method in ("split", "rsplit"):
        separator = args[0] if args else kwargs.get("sep")
        if method == "rsplit":
            limits.check_search(owner, separator)
        limits.check_split(owner, separator, args[1] if len(args) > 1 else kwargs.get("maxsplit", -1))
    elif method == "splitlines":
        limits.line_count(owner)
    elif method in ("rfind", "rindex", "rpartition", "strip", "lstrip", "rstrip") and args:
        limits.check_search(owner, args[0])
    elif method == "replace" and len(args) >= 2:
        limits.check_replace(owner, args[0], args[1])
    elif method == "join" and args:
        return (limits.joinable(owner, args[0]), *args[1:])
    return args
