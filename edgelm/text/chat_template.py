"""Chat templates: a list of messages to the text that the model was trained on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from types import MappingProxyType
from typing import Any

import jinja2
from jinja2 import meta

from edgelm.errors import EdgeLMError, TemplateError
from edgelm.text.messages import checked_messages
from edgelm.text.template_limits import metered
from edgelm.text.template_sandbox import TemplateSandbox

MAX_SOURCE_BYTES = 64 << 10
MAX_OUTPUT_BYTES = 1 << 20


class ChatTemplate:
    """A compiled chat template in the dialect of transformers' ``apply_chat_template``.

    Args:
        source: the Jinja source, at most 64 KiB.
        special_tokens: role (``bos_token``, ``eos_token``, …) → text, as the template sees them.

    Templates are programs and run in a sandbox: nothing of Python's internals can be reached, the output ends at 1 MiB
    and the evaluation after 2 seconds (checked at every loop round, call, filter and comparison; a single one of those
    works on at most a few MiB). One template may be used by many threads.

    Raises:
        TemplateError: the source is too large or not valid; names the line.
    """

    def __init__(self, source: str, *, special_tokens: Mapping[str, str] = MappingProxyType({})) -> None:
        size = len(source.encode("utf-8", "surrogatepass"))
        if size > MAX_SOURCE_BYTES:
            raise TemplateError(f"the chat template has {size} bytes; at most {MAX_SOURCE_BYTES} are allowed")
        self.source = source
        self.special_tokens = dict(special_tokens)
        try:
            self._template = TemplateSandbox().from_string(source)
        except jinja2.TemplateSyntaxError as error:
            raise TemplateError(f"the chat template is not valid (line {error.lineno}): {_one_line(error)}") from error
        except Exception as error:  # the compiler meets any source: too deep for Python's parser, lone surrogates, …
            raise TemplateError(f"the chat template cannot be compiled: {_one_line(error)}") from error

    @cached_property
    def variables(self) -> frozenset[str]:
        """The names of the variables that it reads: ``messages``, ``tools``, …"""
        return frozenset(meta.find_undeclared_variables(TemplateSandbox().parse(self.source)))

    def render(
        self, messages: Sequence[Mapping[str, Any]], *, add_generation_prompt: bool = True, **variables: Any
    ) -> str:
        """The prompt's text; ``variables`` (``tools``, ``documents``, a model's own switches) are the template's.

        Raises:
            PromptError: a message is not of the right form.
            TemplateError: the template fails, refuses the messages, or exceeds a limit.
        """
        context = {"tools": None, "documents": None, **self.special_tokens, **variables}
        context |= {"messages": checked_messages(messages), "add_generation_prompt": add_generation_prompt}
        with metered() as meter:
            try:
                pieces = []
                for piece in _capped(self._template.generate(context)):
                    meter.tick()
                    pieces.append(piece)
            except EdgeLMError:
                raise
            except Exception as error:  # a template can fail in any way that Python can
                raise TemplateError(f"the chat template fails: {_one_line(error)}") from error
        return "".join(pieces)


def _capped(pieces: Iterator[str]) -> Iterator[str]:
    size = 0
    for piece in pieces:
        size += len(piece.encode("utf-8", "surrogatepass"))
        if size > MAX_OUTPUT_BYTES:
            raise TemplateError(f"the chat template writes more than {MAX_OUTPUT_BYTES} bytes")
        yield piece


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
