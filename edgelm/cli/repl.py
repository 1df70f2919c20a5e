"""The loop of a conversation: read, command or question, print."""

from __future__ import annotations

import re

from edgelm.cli import console
from edgelm.cli.chat_session import ChatSession
from edgelm.cli.line_input import LineInput
from edgelm.cli.slash_commands import Leave, execute
from edgelm.cli.summary import scheme_text
from edgelm.errors import EdgeLMError

# "/etc/hosts looks odd" is a question, "/set" and a mistyped "/sett" are not.
_COMMAND = re.compile(r"/[A-Za-z?]*(\s|$)")


def hold_conversation(session: ChatSession) -> None:
    """Talks until the user leaves.

    On a terminal an error is shown, and the conversation goes on; in a pipe nobody would see it, so it is raised.

    Raises:
        EdgeLMError: see there.
        KeyboardInterrupt: Ctrl-C in a pipe.
    """
    lines = LineInput()
    if lines.is_interactive:
        manifest = session.lm.bundle.manifest
        console.say(f"{manifest.name}, {scheme_text(manifest)}, {session.lm.context_length} tokens of context")
        console.say("/help shows the commands, Ctrl-C stops an answer, Ctrl-D leaves")
    while True:
        try:
            message = lines.message()
            if message is None:
                break
            _take(session, message, is_interactive=lines.is_interactive)
        except Leave:
            return
        except EdgeLMError as error:
            if not lines.is_interactive:  # which line of the pipe it was, where later ones are lost
                raise type(error)(f"line {lines.number}: {error}") from error
            console.error(str(error))
        except KeyboardInterrupt:
            if not lines.is_interactive:
                raise
            console.say("\n(Ctrl-D or /bye leaves)")
    if lines.is_interactive:
        console.say("")  # the shell's prompt belongs on a line of its own


def _take(session: ChatSession, message: str, *, is_interactive: bool) -> None:
    if not message.strip():
        return
    if _COMMAND.match(message):
        execute(session, message)
    elif not session.ask(message) and not is_interactive:
        raise KeyboardInterrupt
