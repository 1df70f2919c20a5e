"""``edgelm chat``: a conversation, kept from turn to turn."""

from __future__ import annotations

from typing import Any

import click

from edgelm.cli.generation_options import generation_options
from edgelm.cli.help_page import PagedCommand, SectionOption, examples
from edgelm.cli.installed import ensure_installed
from edgelm.cli.interrupt import prompt_exit
from edgelm.cli.loading import load_folder, system_prompt
from edgelm.cli.options import MachineOptions, machine_options, verbose_option
from edgelm.cli.prompt_input import checked_text
from edgelm.errors import TemplateError

_EXAMPLES = """
edgelm chat smollm2
edgelm chat smollm2 --system "You are a patient teacher." --temperature 0.7
printf 'hello\\nand now in French\\n' | edgelm chat smollm2
"""


@click.command(cls=PagedCommand, epilog=examples(_EXAMPLES))
@click.argument("model")
@click.option("--system", cls=SectionOption, section="Prompt", help="What the model shall know or be beforehand.")
@generation_options
@machine_options
@verbose_option
def command(model: str, system: str | None, generation: dict[str, Any], machine: MachineOptions, verbose: bool) -> None:
    """Hold a conversation.

    Type /help for commands and \"\"\" for several lines; Ctrl-C stops an answer, Ctrl-D leaves. From a pipe, each line
    is a message.
    """
    folder = ensure_installed(model, offline=machine.offline)
    with prompt_exit():
        from edgelm.cli.chat_session import ChatSession
        from edgelm.cli.conversation import Conversation
        from edgelm.cli.repl import hold_conversation

        start = system_prompt(folder, system)
        conversation = Conversation(None if start is None else checked_text(start, "--system"))
        lm = load_folder(folder, machine)
    with lm:
        if not lm.has_chat_template:
            name = lm.bundle.manifest.name
            raise TemplateError(f"{name} has no chat template, so it cannot chat; use: edgelm run {model}")
        hold_conversation(ChatSession(lm, conversation, generation, verbose=verbose))
