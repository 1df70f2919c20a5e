"""The conversational half of a language model: chat templates, and tools that the model may have called.

What it needs of the text side is imported when it is first used.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgelm.config import DEFAULT_NEW_TOKENS, DEFAULT_TOOL_ROUNDS, GenerationConfig
from edgelm.errors import TemplateError
from edgelm.loaded_model import LoadedModel
from edgelm.results import GenerationResult

if TYPE_CHECKING:
    from edgelm.text.chat_template import ChatTemplate
    from edgelm.text.turns import FittedChat
    from edgelm.text_stream import TextStream
    from edgelm.tool_calls.offer import OfferedTools, Tools
    from edgelm.tool_calls.rounds import ToolAnswer

TEMPLATE_NAME = "chat_template.jinja"

Message = Mapping[str, Any]


class ChatModel(LoadedModel):
    """A model that can be talked to, if it has a chat template; for arguments and attributes see ``LoadedModel``."""

    @property
    def has_chat_template(self) -> bool:
        """Whether the model was trained for conversations."""
        return self.bundle.has(TEMPLATE_NAME)

    def chat(
        self,
        messages: Sequence[Message],
        generation_config: GenerationConfig | None = None,
        *,
        tools: Tools | None = None,
        **settings: Any,
    ) -> GenerationResult:
        """Answers a conversation: dicts with ``role`` and ``content``, rendered by the model's chat template.

        Args:
            messages: the conversation; results of calls have the role ``tool``.
            generation_config: see ``generate``.
            tools: functions (with type hints, and a docstring in Google's style), or schemas as in OpenAI's API, that
                the model may ask to have called. None is: the answer's ``tool_calls`` say what is asked for.
            settings: see ``generate``.

        Raises:
            TemplateError: the model has no chat template, or it fails on these messages, or has no place for tools.
            ConfigError: something is no tool; as for this and others, see ``generate``.
        """
        return self.stream_chat(messages, generation_config, tools=tools, **settings).drain()

    def stream_chat(
        self,
        messages: Sequence[Message],
        generation_config: GenerationConfig | None = None,
        *,
        tools: Tools | None = None,
        **settings: Any,
    ) -> TextStream:
        """Like ``chat``, but gives the text out piece by piece as it is made; calls come with the last piece."""
        offered = None if tools is None else self._offer(tools)

        def shown(config: GenerationConfig) -> FittedChat:
            return self._fitted(messages, offered, config)

        return self._start(shown, {"generation_config": generation_config, **settings}, tools=offered)

    def chat_with_tools(
        self, messages: Sequence[Message], tools: Tools, *, max_rounds: int = DEFAULT_TOOL_ROUNDS, **settings: Any
    ) -> ToolAnswer:
        """Answers a conversation, running the functions that the model asks for and telling it what they return.

        The arguments are the model's: offer nothing that may not be run with any. What does not fit a function's schema
        is not run; the model is told, as it is of exceptions.

        Args:
            messages: see ``chat``.
            tools: functions.
            max_rounds: answers that the model may take, the last one included.
            settings: see ``generate``.

        Raises:
            ConfigError: a tool is no function, or ``max_rounds`` is out of range. Others: see ``chat``.
        """
        from edgelm.tool_calls.rounds import answer_with_tools, runnable

        box = runnable(tools)
        offered = self._offer(box)
        return answer_with_tools(
            lambda said: self.chat(said, tools=offered, **settings), messages, box, max_rounds=max_rounds
        )

    def encode_chat(self, messages: Sequence[Message], *, tools: Tools | None = None) -> list[int]:
        """Token ids of a conversation, ready for the model's answer.

        Raises:
            TemplateError: the model has no chat template, or it fails on these messages, or has no place for tools.
            PromptError: the messages are not of the form that templates take.
        """
        from edgelm.text.messages import check_roles, checked_messages
        from edgelm.text.prompt import encode_chat

        check_roles(checked_messages(messages))
        variables = {} if tools is None else self._offer(tools).variables
        return encode_chat(self.tokenizer, self._template, messages, **variables)

    def encode_shown(
        self, messages: Sequence[Message], config: GenerationConfig, *, tools: Tools | None = None
    ) -> list[int]:
        """Like ``encode_chat``, without the turns that ``config.overflow`` leaves out."""
        return self._fitted(messages, None if tools is None else self._offer(tools), config).ids

    @abstractmethod
    def _start(
        self,
        prompt: Sequence[int] | NDArray[np.int64] | Callable[[GenerationConfig], FittedChat],
        settings: Mapping[str, Any],
        *,
        tools: OfferedTools | None = None,
    ) -> TextStream:
        """Begins an answer, from whose text calls of ``tools`` are taken out."""

    def _fitted(self, messages: Sequence[Message], tools: OfferedTools | None, config: GenerationConfig) -> FittedChat:
        """The conversation as the model is shown it: all of it, unless ``overflow`` drops turns."""
        from edgelm.text.turns import FittedChat, drop_oldest

        def encode(said: Sequence[Message]) -> list[int]:
            return self.encode_chat(said, tools=tools)

        if config.overflow != "drop-oldest":
            return FittedChat(encode(messages))
        quarter = self.context_length // 4
        room = min(config.max_new_tokens or DEFAULT_NEW_TOKENS, quarter)  # for the answer
        return drop_oldest(messages, encode, most=self.context_length - room, block=max(1, quarter))

    def _read_text(self) -> None:
        # The template first: its library is Python, and lets the thread go on that loads the graph. So does what the
        # first answer will import.
        import edgelm.text.turns
        import edgelm.text_stream  # noqa: F401
        from edgelm.runtime.resident_code import give_back_code

        _ = self._template if self.has_chat_template else None
        give_back_code()  # of what was imported: reading the tokenizer takes memory, too
        super()._read_text()

    @cached_property
    def _template(self) -> ChatTemplate:
        from edgelm.text.chat_template import MAX_SOURCE_BYTES, ChatTemplate

        if not self.has_chat_template:
            raise TemplateError(f"{self.name} has no chat template; use generate (edgelm run --raw)")
        return ChatTemplate(self.bundle.read_text(TEMPLATE_NAME, MAX_SOURCE_BYTES), special_tokens=self.special_tokens)

    def _offer(self, tools: Tools) -> OfferedTools:
        from edgelm.tool_calls.offer import offer

        template = self._template
        return offer(tools, template=template.source, variables=template.variables, model=self.name)
