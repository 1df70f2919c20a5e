"""``edgelm chat``: a conversation, kept from turn to turn."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgelm.bundle.store import Store
from edgelm.cli import console
from edgelm.cli.form_options import form_options
from edgelm.cli.generation_options import generation_options, refuse_unseen_logprobs
from edgelm.cli.help_page import PagedCommand, SectionOption, examples
from edgelm.cli.installed import ensure_installed
from edgelm.cli.interrupt import prompt_exit
from edgelm.cli.loading import load_folder, system_prompt
from edgelm.cli.options import MachineOptions, draft_option, machine_options, verbose_option
from edgelm.cli.prompt_cache import kept_in, prompt_cache_option
from edgelm.cli.prompt_input import checked_text
from edgelm.cli.spaced_tokens import tell_spaced_tokens
from edgelm.cli.tool_options import tools_option
from edgelm.errors import TemplateError

if TYPE_CHECKING:
    from edgelm.cli.tool_runner import ToolRunner

_EXAMPLES = """
edgelm chat smollm2
edgelm chat smollm2 --system "You are a patient teacher." --temperature 0.7
edgelm chat qwen2.5-0.5b --tools tools.py
printf 'hello\\nand now in French\\n' | edgelm chat smollm2
"""


@click.command(cls=PagedCommand, epilog=examples(_EXAMPLES))
@click.argument("model")
@click.option("--system", cls=SectionOption, section="Prompt", help="What the model shall know or be beforehand.")
@tools_option(help="A Python file whose functions the model may call; each is run only after you agree.")
@click.option("--yes-tools", is_flag=True, help="Run them without asking.")
@prompt_cache_option
@generation_options
@form_options
@draft_option
@machine_options
@verbose_option
def command(
    model: str,
    system: str | None,
    prompt_cache: Path | None,
    generation: dict[str, Any],
    draft: str | None,
    machine: MachineOptions,
    verbose: bool,
    tools: Path | None,
    yes_tools: bool,
) -> None:
    """Hold a conversation.

    Type /help for commands and \"\"\" for several lines; Ctrl-C stops an answer, Ctrl-D leaves. From a pipe, each line
    is a message.
    """
    refuse_unseen_logprobs(generation, "edgelm run --json")
    runner = _tool_runner(tools, ask=not yes_tools)
    asks = runner is not None and not yes_tools
    if asks and not (Path(model).is_dir() or (Store().root / model).is_dir()):
        _check_somebody_asked()  # before a model is fetched in vain
    folder = ensure_installed(model, offline=machine.offline, max_memory=machine.max_memory)
    with prompt_exit():
        from edgelm.cli.chat_session import ChatSession
        from edgelm.cli.conversation import Conversation
        from edgelm.cli.repl import hold_conversation

        start = system_prompt(folder, system)
        conversation = Conversation(None if start is None else checked_text(start, "--system"))
        lm = load_folder(folder, machine, draft)
    with lm:
        if not lm.has_chat_template:
            name = lm.bundle.manifest.name
            raise TemplateError(f"{name} has no chat template, so it cannot chat; use: edgelm run {model}")
        if runner is not None:  # a template without tools is refused now, not at the first question
            lm.encode_chat([{"role": "user", "content": "Hello"}], tools=runner.toolbox)
        if asks:
            _check_somebody_asked()
        tell_spaced_tokens(lm, generation)
        session = ChatSession(lm, conversation, generation, verbose=verbose, tools=runner)
        with kept_in(prompt_cache, lm, verbose=verbose, of=lambda: session.token_ids):
            hold_conversation(session)


def _tool_runner(file: Path | None, *, ask: bool) -> ToolRunner | None:
    """Runs the functions of a file; None where there is none."""
    if file is None:
        if not ask:
            raise click.UsageError("--yes-tools goes with --tools")
        return None
    from edgelm.cli.tool_file import load_functions
    from edgelm.cli.tool_runner import ToolRunner

    return ToolRunner(load_functions(file), ask=ask)


def _check_somebody_asked() -> None:
    if not (console.is_terminal(sys.stdin) and console.is_terminal(sys.stderr)):
        raise click.UsageError("--tools needs a terminal to ask on before a tool is run; --yes-tools runs them unasked")
