"""The half of a language model that says how it comes to its tokens.

What it needs of the text side is imported when it is first used.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgelm.chat_model import ChatModel, Message
from edgelm.config import GenerationConfig
from edgelm.generation.history import check_prompt
from edgelm.runtime.memory import Budget
from edgelm.runtime.sequences import SequenceDecoder

if TYPE_CHECKING:
    from edgelm.generation.observer import Observer
    from edgelm.inspection.explain.results import ExplainedToken, Explanation
    from edgelm.text.turns import FittedChat
    from edgelm.text_stream import TextStream
    from edgelm.tool_calls.offer import OfferedTools

Prompt = str | Sequence[int] | NDArray[np.int64]
OnToken = Callable[["ExplainedToken"], None]


class ExplainedModel(ChatModel):
    """A model whose tokens can be explained; for arguments and attributes see ``LoadedModel``."""

    def explain(
        self, prompt: Prompt | Sequence[Message], *, top: int = 10, on_token: OnToken | None = None, **settings: Any
    ) -> Explanation:
        """Like ``generate``, or of messages ``chat``, with the same tokens; tells how each of them was chosen.

        Nothing is guessed ahead, so a draft model is not asked.

        Args:
            prompt: as there.
            top: how many of the likeliest tokens to keep of each stage of a choice, up to 1,000.
            on_token: called with each token as it is chosen.
            settings: as there, but for beams.

        Raises:
            ConfigError: also ``top`` is out of range, or ``num_beams`` is above 1.
            Others: see ``generate`` and ``chat``.
        """
        from edgelm.inspection.explain.recorder import Recorder

        recorder = Recorder(self.tokenizer, top, on_token)
        messages = _messages(prompt)
        if messages is not None:
            begin = lambda config: self._fitted(messages, None, config)  # noqa: E731
            return recorder.explanation(self.name, self._start(begin, settings, observer=recorder).drain())
        ids = self._encode(prompt)  # type: ignore[arg-type]
        answer = self._start(ids, settings, observer=recorder).drain()
        return recorder.explanation(self.name, answer, source=ids)

    def explain_given(self, text: Prompt, *, top: int = 10, on_token: OnToken | None = None) -> Explanation:
        """Tells how likely each token of a text is behind those before it; generates nothing.

        Args:
            text: text or ids, of two tokens or more; the first has nothing before it, and is not explained.
            top: as in ``explain``.
            on_token: as there.

        Raises:
            ConfigError: ``top`` is out of range.
            PromptError: the text cannot be encoded or has one token; ContextLengthError: it is too long.
            MemoryLimitError: it does not fit into ``max_memory``.
            UnsupportedModelError: the model is an encoder-decoder.
        """
        from edgelm.inspection.explain.recorder import Recorder, check_scorable

        recorder = Recorder(self.tokenizer, top, on_token)
        decoder = self.new_decoder()
        ids = check_prompt(self._encode(text), self.bundle.manifest.vocab_size)
        check_scorable(ids, self.context_length)
        self.check_memory(self.memory_budget(ids.size))
        return recorder.score(self.name, decoder, ids)

    @abstractmethod
    def memory_budget(self, tokens: int, *, sequences: int = 1) -> Budget:
        """Bytes that holding so many tokens takes, itemised."""

    @abstractmethod
    def new_decoder(self) -> SequenceDecoder:
        """A decoder with an empty KV cache of its own."""

    @abstractmethod
    def _encode(self, prompt: Prompt) -> Sequence[int] | NDArray[np.int64]:
        """Token ids of a prompt."""

    @abstractmethod
    def _start(
        self,
        prompt: Sequence[int] | NDArray[np.int64] | Callable[[GenerationConfig], FittedChat],
        settings: Mapping[str, Any],
        *,
        tools: OfferedTools | None = None,
        observer: Observer | None = None,
    ) -> TextStream:
        """Begins an answer, of whose choices ``observer`` is told."""


def _messages(prompt: Any) -> Sequence[Message] | None:
    """The prompt if it is messages, and neither text nor ids; an empty list is ids."""
    return prompt if isinstance(prompt, Sequence) and len(prompt) and isinstance(prompt[0], Mapping) else None
