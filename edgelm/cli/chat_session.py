"""A model in conversation: asks it, prints its answers, and remembers what was said and how it is set."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import FrameType
from typing import Any

from edgelm.cli import console
from edgelm.cli.answers import cost_line, dropped_line
from edgelm.cli.conversation import Conversation, Message
from edgelm.cli.interrupt import at_interrupt, interrupt_runs
from edgelm.cli.tool_runner import ToolRunner
from edgelm.config import DEFAULT_TOOL_ROUNDS, GenerationConfig
from edgelm.errors import CancelledError, ContextLengthError
from edgelm.language_model import LanguageModel
from edgelm.results import GenerationResult
from edgelm.text_stream import TextStream
from edgelm.tool_calls.toolbox import Toolbox

_WAYS_ON = "/clear begins anew, and /set overflow drop-oldest (or sink) goes on"


class ChatSession:
    """One conversation with one model.

    Args:
        lm: a model with a chat template.
        conversation: what was said so far.
        settings: of the generation, as given on the command line.
        verbose: say on stderr what each answer cost.
        tools: runs what the model asks for; None: it is offered no tools.
    """

    def __init__(
        self,
        lm: LanguageModel,
        conversation: Conversation,
        settings: dict[str, Any],
        *,
        verbose: bool = False,
        tools: ToolRunner | None = None,
    ) -> None:
        self.lm = lm
        self.conversation = conversation
        self.settings = dict(settings)
        self._verbose = verbose
        self._tools = tools

    @property
    def context_used(self) -> int:
        """Tokens that the conversation takes of the context window."""
        messages = self.conversation.messages
        return len(self.lm.encode_chat(messages, tools=self._toolbox)) if messages else 0

    @property
    def token_ids(self) -> list[int]:
        """The conversation's tokens as the model would be shown it now; none where nothing was said."""
        if not self.conversation.questions:
            return []
        config = self.config_of(self.settings)
        return self.lm.encode_shown(self.conversation.messages, config, tools=self._toolbox)

    def config_of(self, settings: Mapping[str, Any]) -> GenerationConfig:
        """What is in force with these settings; forms, texts to be led away from and tokens by their text are left out.

        Raises:
            ConfigError: one is out of range, or contradicts another.
        """
        own = {name: value for name, value in settings.items() if name in GenerationConfig.field_names()}
        if isinstance(own.get("logit_bias"), Mapping):
            del own["logit_bias"]
        return self.lm.generation_config.updated(**own)

    @property
    def _toolbox(self) -> Toolbox | None:
        return None if self._tools is None else self._tools.toolbox

    def ask(self, text: str) -> bool:
        """Asks the model and prints its answer as it comes; returns False if the user stopped it.

        What was said until then is kept. A question that got no answer at all is withdrawn.

        Raises:
            EdgeLMError: the model could not answer; the conversation is then as it was before.
        """
        self.conversation.ask(text)
        calls: list[Message] = []
        try:
            finished, said = self._answer(calls)
        except KeyboardInterrupt:
            return self._withdraw()
        except ContextLengthError as error:
            self.conversation.withdraw()
            raise ContextLengthError(f"{error}; {_WAYS_ON}") from None
        except BaseException:  # also where nobody reads the answer any more
            self.conversation.withdraw()
            raise
        if not finished and not said:
            return self._withdraw()
        self.conversation.answer(said, calls)
        return finished

    def _answer(self, calls: list[Message]) -> tuple[bool, str]:
        """Whether the answer came to its end, and its text; puts calls of tools and their results into ``calls``."""
        for _ in range(DEFAULT_TOOL_ROUNDS):
            messages = [*self.conversation.messages, *calls]
            with self.lm.stream_chat(messages, tools=self._toolbox, **self.settings) as stream:
                finished = _print_until_interrupt(stream)
            if finished:
                self._tell(stream.result)
            if self._tools is None or not finished or stream.result.finish_reason != "tool_calls":
                return finished, stream.text
            results = self._tools.results(stream.result.tool_calls)
            calls += [stream.result.as_message(), *results]
        console.say(f"(stopped: the model called tools {DEFAULT_TOOL_ROUNDS} times without an answer)")
        return True, ""

    def _tell(self, result: GenerationResult) -> None:
        dropped = dropped_line(result.usage)
        if dropped is not None:
            console.say(dropped)
        if self._verbose:
            console.say(cost_line(result))

    def _withdraw(self) -> bool:
        self.conversation.withdraw()
        console.say("\n(stopped before there was an answer; the question is withdrawn)")
        return False


def _print_until_interrupt(stream: TextStream) -> bool:
    """Prints the answer; returns False if Ctrl-C ended it.

    Until the first text, Ctrl-C breaks into the computation, and the KV cache is lost. From then on it is heeded
    between two tokens, also where none of them shows any text, and the cache stays good for the next turn.
    """
    finished = False
    with _Interrupts.counted(stream.close) as interrupts:
        try:
            for chunk in stream:
                console.answer(chunk.text)
                interrupts.deferred = True
                finished = chunk.finish_reason is not None
            return finished
        except (KeyboardInterrupt, CancelledError):
            return False
        finally:
            interrupts.deferred = True
            if stream.text and not stream.text.endswith("\n"):
                console.answer("\n")


class _Interrupts:
    """Ctrl-C during an answer: raised, or if ``deferred`` a call of ``stop``; the second one is always raised."""

    def __init__(self, stop: Callable[[], None]) -> None:
        self._stop = stop
        self._count = 0
        self.deferred = False

    @classmethod
    @contextmanager
    def counted(cls, stop: Callable[[], None]) -> Iterator[_Interrupts]:
        """Counts the interrupts of the block; outside the main thread, where none arrive, there are none."""
        interrupts = cls(stop)
        if threading.current_thread() is not threading.main_thread():
            yield interrupts
            return
        previous = signal.signal(signal.SIGINT, interrupts._received)
        try:
            with at_interrupt(interrupts._break_in):
                yield interrupts
        finally:
            signal.signal(signal.SIGINT, previous)

    def _break_in(self) -> None:
        if not self.deferred:
            interrupt_runs()

    def _received(self, number: int, frame: FrameType | None) -> None:
        self._count += 1
        if not self.deferred or self._count > 1:
            raise KeyboardInterrupt
        self._stop()
