"""A model in conversation: asks it, prints its answers, and remembers what was said and how it is set."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from edgelm.cli import console
from edgelm.cli.answers import cost_line
from edgelm.cli.conversation import Conversation
from edgelm.language_model import LanguageModel
from edgelm.text_stream import TextStream


class ChatSession:
    """One conversation with one model.

    Args:
        lm: a model with a chat template.
        conversation: what was said so far.
        settings: of the generation, as given on the command line.
        verbose: say on stderr what each answer cost.
    """

    def __init__(
        self, lm: LanguageModel, conversation: Conversation, settings: dict[str, Any], *, verbose: bool = False
    ) -> None:
        self.lm = lm
        self.conversation = conversation
        self.settings = dict(settings)
        self._verbose = verbose

    @property
    def context_used(self) -> int:
        """Tokens that the conversation takes of the context window."""
        messages = self.conversation.messages
        return len(self.lm.encode_chat(messages)) if messages else 0

    def ask(self, text: str) -> bool:
        """Asks the model and prints its answer as it comes; returns False if the user stopped it.

        What was said until then is kept. A question that got no answer at all is withdrawn.

        Raises:
            EdgeLMError: the model could not answer; the conversation is then as it was before.
        """
        self.conversation.ask(text)
        try:
            with self.lm.stream_chat(self.conversation.messages, **self.settings) as stream:
                finished = _print_until_interrupt(stream)
        except KeyboardInterrupt:
            return self._withdraw()
        except BaseException:  # also where nobody reads the answer any more
            self.conversation.withdraw()
            raise
        if not finished and not stream.text:
            return self._withdraw()
        self.conversation.answer(stream.text)
        if finished and self._verbose:
            console.say(cost_line(stream.result))
        return finished

    def _withdraw(self) -> bool:
        self.conversation.withdraw()
        console.say("\n(stopped before there was an answer; the question is withdrawn)")
        return False


def _print_until_interrupt(stream: TextStream) -> bool:
    """Prints the answer; returns False if Ctrl-C ended it.

    Until the first token, Ctrl-C breaks into the prefill, and the KV cache is lost. From then on it is heeded between
    two tokens, and the cache stays good for the next turn.
    """
    with _Interrupts.counted() as interrupts:
        try:
            for chunk in stream:
                console.answer(chunk.text)
                interrupts.deferred = True
                if interrupts.count and chunk.finish_reason is None:
                    return False
            return True
        except KeyboardInterrupt:
            return False
        finally:
            interrupts.deferred = True
            if stream.text and not stream.text.endswith("\n"):
                console.answer("\n")


class _Interrupts:
    """Ctrl-C during an answer: raised, or if ``deferred`` only counted; the second one is always raised."""

    def __init__(self) -> None:
        self.count = 0
        self.deferred = False

    @classmethod
    @contextmanager
    def counted(cls) -> Iterator[_Interrupts]:
        """Counts the interrupts of the block; outside the main thread, where none arrive, there are none."""
        interrupts = cls()
        if threading.current_thread() is not threading.main_thread():
            yield interrupts
            return
        previous = signal.signal(signal.SIGINT, interrupts._received)
        try:
            yield interrupts
        finally:
            signal.signal(signal.SIGINT, previous)

    def _received(self, number: int, frame: FrameType | None) -> None:
        self.count += 1
        if not self.deferred or self.count > 1:
            raise KeyboardInterrupt
