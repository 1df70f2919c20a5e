"""``edgelm run``: one prompt, one answer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgelm.bundle.manifest import NATIVE_LAYOUT
from edgelm.cli import console
from edgelm.cli.answers import cost_line, cut_line, dropped_line, print_stream
from edgelm.cli.form_options import form_options
from edgelm.cli.generation_options import generation_options, refuse_unseen_logprobs
from edgelm.cli.help_page import PagedCommand, SectionOption, examples
from edgelm.cli.installed import ensure_installed
from edgelm.cli.interrupt import prompt_exit
from edgelm.cli.loading import load_folder, memory_fields, system_prompt
from edgelm.cli.options import (
    MachineOptions,
    draft_option,
    file_option,
    json_option,
    machine_options,
    verbose_option,
)
from edgelm.cli.prompt_cache import kept_in, prompt_cache_option
from edgelm.cli.prompt_input import checked_text, read_prompt_in_context
from edgelm.cli.recording import Asker, answers_of, check_recordable, record_option, save_recording
from edgelm.cli.spaced_tokens import tell_spaced_tokens
from edgelm.cli.template_options import TemplateOptions, filled_prompt, template_options
from edgelm.cli.tool_options import tools_option
from edgelm.errors import ContextLengthError, PromptError

if TYPE_CHECKING:
    from edgelm.language_model import LanguageModel
    from edgelm.prompt_parts import PromptParts
    from edgelm.results import GenerationResult
    from edgelm.text.prompt_template import FilledPrompt
    from edgelm.text_stream import TextStream
    from edgelm.tool_calls.toolbox import Toolbox

_PROMPT = "Prompt"
_EXAMPLES = """
edgelm run smollm2 "Why is the sky blue?"
edgelm run smollm2 --system "Answer in one word." "What is the capital of Japan?"
edgelm run smollm2 --temperature 0.7 --top-p 0.9 --seed 1 "Tell me a story."
edgelm run smollm2 --raw -n 20 "Once upon a time"
edgelm run smollm2 --temperature 0.8 --record story.json "Tell me a story."
git diff | edgelm run smollm2 --max-memory 400MB "What changes here?"
edgelm run smollm2 --json - < question.txt
edgelm run smollm2 --template translation --var to=French "Good morning."
edgelm run smollm2 --template classification --examples reviews.csv -k 3 "The soup was cold."
"""


@click.command(cls=PagedCommand, epilog=examples(_EXAMPLES))
@click.argument("model")
@click.argument("prompt", required=False)
@click.option("-p", "--prompt", "option", cls=SectionOption, section=_PROMPT, help="The prompt.")
@file_option("prompt", section=_PROMPT, beside="or its context if there is one")
@click.option("--system", cls=SectionOption, section=_PROMPT, help="What the model shall know or be beforehand.")
@click.option("--raw", is_flag=True, cls=SectionOption, section=_PROMPT, help="Continue the text: no chat template.")
@prompt_cache_option
@tools_option(help="A Python file, or a JSON list of schemas: functions that the model may call. None is run.")
@template_options
@generation_options
@form_options
@draft_option
@machine_options
@record_option
@json_option
@verbose_option
def command(
    model: str,
    prompt: str | None,
    option: str | None,
    file: str | None,
    system: str | None,
    raw: bool,
    prompt_cache: Path | None,
    tools: Path | None,
    templating: TemplateOptions,
    generation: dict[str, Any],
    draft: str | None,
    machine: MachineOptions,
    record: Path | None,
    as_json: bool,
    verbose: bool,
) -> None:
    """Answer one prompt.

    PROMPT may also come from --prompt, from a file, or on standard input (-, or no prompt and a pipe). A file beside a
    prompt, or what is piped in, is put before it, with an empty line between. The answer is written to stdout as it is
    made, everything else to stderr. With --template the prompt is the template's text. With --tools the calls that the
    model asks for are written behind its answer, as JSON.
    """
    if raw and system is not None:
        raise click.UsageError("--system is for the chat template, which --raw leaves out")
    if not as_json:
        refuse_unseen_logprobs(generation, "--json")
    template = templating.loaded()
    offered = _offered(tools, of_chat=not raw and template is None)
    if template is None:
        text: str | FilledPrompt = read_prompt_in_context(prompt, option, file)
        if not raw and not str(text).strip():
            raise click.UsageError("the prompt is empty; write one, or have the model begin a text with --raw")
    else:
        text = filled_prompt(templating, template, prompt, option, file)
    check_recordable(record, {"--tools": tools, "--draft": draft, "--prompt-cache": prompt_cache})
    folder = ensure_installed(model, offline=machine.offline, max_memory=machine.max_memory)
    with (
        prompt_exit(),
        load_folder(folder, machine, draft) as lm,
        kept_in(prompt_cache, lm, verbose=verbose),
        _ways_on(lm),
    ):
        tell_spaced_tokens(lm, generation)
        asker = answers_of(lm, record)
        parts: dict[str, Any] = {}
        asked = None if raw else system_prompt(folder, system)
        if isinstance(text, str):
            settings = generation if offered is None else {**generation, "tools": offered}
            stream = _stream(lm, asker, text, asked, raw, settings)
        else:
            stream, counted = _stream_filled(lm, asker, text, asked, raw, generation)
            parts = {"prompt_parts": counted.as_dict()}
            if verbose:
                console.say(f"{counted}; room for an answer of {counted.answer} tokens")
        with stream:
            _print_answer(stream, lm, parts, as_json=as_json)
        save_recording(asker, record)
        _tell(stream.result, generation.get("max_time"), verbose=verbose)


def _tell(result: GenerationResult, max_time: float | None, *, verbose: bool) -> None:
    """Says on stderr what the model had not in view; ``verbose``: what the answer cost, and what cut it."""
    lines = [dropped_line(result.usage)]
    if verbose:
        lines += [cost_line(result), cut_line(result, max_time)]
    for line in lines:
        if line is not None:
            console.say(line)


@contextmanager
def _ways_on(lm: LanguageModel) -> Iterator[None]:
    """Adds to the refusal of a prompt that is too long what may be done about it."""
    try:
        yield
    except ContextLengthError as error:
        raise ContextLengthError("; ".join([str(error), *_longer_windows(lm)])) from None


def _longer_windows(lm: LanguageModel) -> Iterator[str]:
    """How a decoder's window may become longer than it is; an encoder takes as much as it takes."""
    manifest = lm.bundle.manifest
    if manifest.family != "decoder":
        return
    if "context_length" in lm.fitting.changed:
        yield f"{'more free memory' if lm.runtime.max_memory is None else 'a higher --max-memory'} makes it longer"
    elif lm.context_length < manifest.context_length:
        yield f"--ctx-size makes it longer, up to {manifest.context_length}"
    if manifest.layout == NATIVE_LAYOUT:
        yield "--overflow sink lets it slide"


def _print_answer(stream: TextStream, lm: LanguageModel, behind: dict[str, Any], *, as_json: bool) -> None:
    """Reads and writes the answer; as JSON with more fields before and behind its own."""
    if as_json:
        values = stream.drain().as_dict()
        values["memory"] |= memory_fields(lm)
        console.answer_json({"model": lm.name, **values, **behind})
        return
    print_stream(stream)
    for call in stream.result.tool_calls:
        console.answer_json(call.as_dict())


def _offered(tools: Path | None, *, of_chat: bool) -> Toolbox | None:
    if tools is None:
        return None
    if not of_chat:
        raise click.UsageError("--tools is for the chat template, which --raw and --template leave out")
    from edgelm.cli.tool_file import load_descriptions

    return load_descriptions(tools)


def _stream(
    lm: LanguageModel, asker: Asker, text: str, system: str | None, raw: bool, generation: dict[str, Any]
) -> TextStream:
    if lm.bundle.manifest.family == "encoder-decoder" and not text.strip():
        raise PromptError(f"the prompt is empty, and {lm.name} only answers a text; write one")
    if raw or (not lm.has_chat_template and "tools" not in generation):
        if system is not None:
            raise click.UsageError(f"{lm.bundle.manifest.name} has no chat template, so it takes no --system")
        return asker.stream(text, **generation)
    messages = [] if system is None else [{"role": "system", "content": checked_text(system, "--system")}]
    return asker.stream_chat([*messages, {"role": "user", "content": text}], **generation)


def _stream_filled(
    lm: LanguageModel, asker: Asker, filled: FilledPrompt, system: str | None, raw: bool, generation: dict[str, Any]
) -> tuple[TextStream, PromptParts]:
    """The answer to a templated prompt, and what its parts take of the context window."""
    from edgelm.prompt_parts import encode_filled, prompt_parts

    as_text = raw or not lm.has_chat_template
    if as_text and system is not None:
        raise click.UsageError(f"{lm.bundle.manifest.name} has no chat template, so it takes no --system")
    if system is not None:
        filled = replace(filled, system=checked_text(system, "--system"))
    prompt = encode_filled(lm, filled, raw=raw)
    if as_text and filled.stop and "stop_strings" not in generation:
        generation = {**generation, "stop_strings": filled.stop}
    return asker.stream(prompt, **generation), prompt_parts(lm, filled, raw=raw, settings=generation)
