"""``edgelm explain``: how each token of an answer was chosen."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgelm.cli import console
from edgelm.cli.explain_table import Blocks
from edgelm.cli.form_options import form_options
from edgelm.cli.generation_options import generation_options, refuse_unseen_logprobs
from edgelm.cli.help_page import PagedCommand, SectionOption, examples
from edgelm.cli.installed import ensure_installed
from edgelm.cli.interrupt import prompt_exit
from edgelm.cli.loading import load_folder, system_prompt
from edgelm.cli.options import MachineOptions, file_option, json_option, machine_options
from edgelm.cli.output_file import OUTPUT_FILE, write_output
from edgelm.cli.prompt_input import checked_text, read_prompt_in_context
from edgelm.cli.spaced_tokens import tell_spaced_tokens

if TYPE_CHECKING:
    from collections.abc import Callable

    from edgelm.inspection.explain.results import ExplainedToken, Explanation
    from edgelm.language_model import LanguageModel

_PROMPT, _EXPLANATION = "Prompt", "Explanation"
# An answer is a block a token: unless more are asked for, as many as can be read.
_ANSWER_TOKENS = 32
_LENGTHS = ("max_new_tokens", "max_length", "min_new_tokens", "min_length")
_FALLBACK_SIZE = (100, 24)
_EXAMPLES = """
edgelm explain smollm2 "What is the capital of Japan?"
edgelm explain smollm2 --temperature 0.8 --top-k 40 --top-p 0.9 --seed 1 "Tell me a story." --html story.html
edgelm explain smollm2 --raw -n 5 --top 3 "The capital of France is"
edgelm explain smollm2 --given "The capital of France is Paris." --json
"""


@click.command(cls=PagedCommand, epilog=examples(_EXAMPLES))
@click.argument("model")
@click.argument("prompt", required=False)
@click.option("-p", "--prompt", "option", cls=SectionOption, section=_PROMPT, help="The prompt.")
@file_option("prompt", section=_PROMPT, beside="or its context if there is one")
@click.option("--system", cls=SectionOption, section=_PROMPT, help="What the model shall know or be beforehand.")
@click.option("--raw", is_flag=True, cls=SectionOption, section=_PROMPT, help="Continue the text: no chat template.")
@click.option(
    "--given",
    is_flag=True,
    cls=SectionOption,
    section=_EXPLANATION,
    help="Generate nothing: PROMPT is a text; tell how likely each of its tokens is.",
)
@click.option(
    "--top",
    type=click.IntRange(1, 1000),
    default=5,
    metavar="N",
    cls=SectionOption,
    section=_EXPLANATION,
    help="Likeliest candidates to show of each stage.  [5]",
)
@click.option(
    "--html",
    type=OUTPUT_FILE,
    cls=SectionOption,
    section=_EXPLANATION,
    help="Write a page to explore, which needs nothing else.",
)
@generation_options
@form_options
@machine_options
@json_option
def command(
    model: str,
    prompt: str | None,
    option: str | None,
    file: str | None,
    system: str | None,
    raw: bool,
    given: bool,
    top: int,
    html: Path | None,
    generation: dict[str, Any],
    machine: MachineOptions,
    as_json: bool,
) -> None:
    """Show how each token was chosen.

    The answer is the one of "edgelm run" with the same settings (up to 32 tokens, if no length is given). Each token
    has a column for each stage that took part in the choice: what the model gave (raw), penalties and bans that changed
    something, then temperature and cuts, with the probabilities after each and why a candidate was cut (✗); then what
    was drawn. Surprise is -log p of the token, raw → after the last stage.
    """
    refuse_unseen_logprobs(generation, "edgelm run --json")
    if (raw or given) and system is not None:
        raise click.UsageError(f"--system is for the chat template, which {'--raw' if raw else '--given'} leaves out")
    if given and generation:
        raise click.UsageError("--given generates nothing, so it takes no settings of a generation")
    text = read_prompt_in_context(prompt, option, file)
    if given and not text:
        raise click.UsageError("the text is empty; --given tells how likely each token of one is")
    if not (raw or given or text.strip()):
        raise click.UsageError("the prompt is empty; write one, or have the model begin a text with --raw")
    folder = ensure_installed(model, offline=machine.offline, max_memory=machine.max_memory)
    blocks = Blocks(width=shutil.get_terminal_size(_FALLBACK_SIZE).columns, colour=console.has_colour(sys.stdout))
    settings: dict[str, Any] = {"top": top}
    if not as_json:
        settings["on_token"] = _printer(blocks)
    with prompt_exit(), load_folder(folder, machine) as lm:
        if given:
            found = lm.explain_given(text, **settings)
        else:
            tell_spaced_tokens(lm, generation)
            told = None if raw else system_prompt(folder, system)
            found = lm.explain(_asked(lm, text, told, raw), **settings, **_limited(generation))
    _write(found, html)
    if as_json:
        console.answer_json(found.as_dict())
    else:
        console.answer_drawn(blocks.summary(found))


def _asked(lm: LanguageModel, text: str, system: str | None, raw: bool) -> Any:
    """The text, or a conversation where the model has a template for it."""
    if raw or not lm.has_chat_template:
        if system is not None:
            raise click.UsageError(f"{lm.bundle.manifest.name} has no chat template, so it takes no --system")
        return text
    messages = [] if system is None else [{"role": "system", "content": checked_text(system, "--system")}]
    return [*messages, {"role": "user", "content": text}]


def _limited(generation: dict[str, Any]) -> dict[str, Any]:
    return generation if generation.keys() & set(_LENGTHS) else {"max_new_tokens": _ANSWER_TOKENS, **generation}


def _printer(blocks: Blocks) -> Callable[[ExplainedToken], None]:
    return lambda token: console.answer_drawn(blocks.block(token))


def _write(found: Explanation, html: Path | None) -> None:
    if html is None:
        return
    from edgelm.inspection.explain_page import explain_page

    write_output(html, explain_page(found).encode())
