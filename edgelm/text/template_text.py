"""The texts of a prompt template: Jinja in the sandbox of chat templates, where a variable that is missing is named."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jinja2
from jinja2 import meta

from edgelm.errors import TemplateError
from edgelm.text.template_limits import metered
from edgelm.text.template_sandbox import TemplateSandbox

MAX_SOURCE_BYTES = 64 << 10
MAX_OUTPUT_BYTES = 8 << 20


class TemplateText:
    """A compiled text with ``{{ variables }}``; may be used by many threads.

    Args:
        source: the Jinja source, at most 64 KiB.
        name: of the template, for messages.

    Attributes:
        variables: names that the text uses and does not set itself.

    Raises:
        TemplateError: the source is too large or not valid; names the line.
    """

    def __init__(self, source: str, *, name: str) -> None:
        self._name = name
        if len(source.encode("utf-8", "surrogatepass")) > MAX_SOURCE_BYTES:
            raise self._fault(f"is larger than the {MAX_SOURCE_BYTES} bytes that are allowed")
        sandbox = TemplateSandbox()
        sandbox.undefined = jinja2.StrictUndefined
        try:
            self._template = sandbox.from_string(source)
            self.variables = frozenset(meta.find_undeclared_variables(sandbox.parse(source)))
        except jinja2.TemplateSyntaxError as error:
            raise self._fault(f"is not valid (line {error.lineno}): {error}") from error
        except Exception as error:  # the compiler meets any source: too deep for Python's parser, lone surrogates, …
            raise self._fault(f"cannot be compiled: {error}") from error

    def render(self, variables: Mapping[str, Any]) -> str:
        """The text with the variables filled in; what they hold is never read as a template.

        Raises:
            TemplateError: a variable is missing, the text fails, or it takes more time or memory than it may.
        """
        with metered():
            try:
                text = self._template.render(variables)
            except jinja2.UndefinedError as error:
                missing = sorted(self.variables - variables.keys())
                if missing:
                    raise self._fault(f"needs the variable {missing[0]!r} (--var {missing[0]}=…)") from error
                raise self._fault(f"fails: {error}") from error
            except TemplateError as error:
                raise self._fault(str(error).removeprefix("the chat template ")) from error
            except Exception as error:  # a template can fail in any way that Python can
                raise self._fault(f"fails: {error}") from error
        if len(text) > MAX_OUTPUT_BYTES:
            raise self._fault(f"writes more than {MAX_OUTPUT_BYTES} characters")
        return text

    def _fault(self, what: str) -> TemplateError:
        return TemplateError(f"the template {self._name!r:.200} {' '.join(what.split())[:300]}")
