"""Tools as they are offered to one model: in the words of its chat template."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any, NamedTuple, TypeAlias

from edgelm.errors import TemplateError
from edgelm.tool_calls.parsing import Style, styles_of
from edgelm.tool_calls.toolbox import Tool, Toolbox

# What templates call the list of schemas; SmolLM3's first ones know the second name only.
_VARIABLES = ("tools", "xml_tools")


class OfferedTools(NamedTuple):
    """``toolbox``: the tools; ``variable``: where the template looks for them; ``styles``: how the model calls them."""

    toolbox: Toolbox
    variable: str
    styles: tuple[Style, ...]

    @property
    def variables(self) -> dict[str, Any]:
        """For the chat template."""
        return {self.variable: self.toolbox.schemas}


Tools: TypeAlias = OfferedTools | Toolbox | Iterable[Tool]
"""Tools, or what has them in it."""


def as_toolbox(tools: Tools) -> Toolbox:
    """The toolbox.

    Raises:
        ConfigError: something is no tool.
    """
    tools = tools.toolbox if isinstance(tools, OfferedTools) else tools
    return tools if isinstance(tools, Toolbox) else Toolbox(tools)


def offer(tools: Tools, *, template: str, variables: Collection[str], model: str) -> OfferedTools:
    """Offers tools to a model by the source of its chat template, which reads ``variables``.

    Raises:
        ConfigError: something is no tool.
        TemplateError: the template has no place for tools.
    """
    if isinstance(tools, OfferedTools):
        return tools
    toolbox = as_toolbox(tools)
    variable = next((name for name in _VARIABLES if name in variables), None)
    if variable is None:
        raise TemplateError(
            f"{model} cannot call tools: its chat template has no place for them; take a model that was trained "
            "to, such as qwen2.5-0.5b of the catalog"
        )
    return OfferedTools(toolbox, variable, styles_of(template))
