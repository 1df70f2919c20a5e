"""``edgelm compare``: prompts, configurations, seeds and models side by side."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgelm.cli import console
from edgelm.cli.compare_options import CompareOptions, compare_options, grid_settings
from edgelm.cli.form_options import form_options
from edgelm.cli.generation_options import (
    check_together,
    implies_sampling,
    refuse_unseen_logprobs,
    unchecked_generation_options,
)
from edgelm.cli.help_page import PagedCommand, examples
from edgelm.cli.installed import ensure_installed
from edgelm.cli.interrupt import prompt_exit
from edgelm.cli.loading import load_folder, system_prompt
from edgelm.cli.options import MachineOptions, json_option, machine_options
from edgelm.cli.output_file import write_output
from edgelm.cli.progress_bar import shown_progress
from edgelm.cli.prompt_input import checked_text, read_prompt
from edgelm.cli.standard_input import is_piped

if TYPE_CHECKING:
    from edgelm.comparison.compare import Opener
    from edgelm.comparison.plan import Configuration, Plan
    from edgelm.comparison.results import Comparison

_EXAMPLES = """
edgelm compare smollm2 -p "Tell me a story." --grid temperature=0.2,0.7,1.2 --seeds 2 -n 40
edgelm compare smollm2 -p "Why is the sky blue?" -p "Why is the sky blue? Answer a child." --html sky.html
edgelm compare smollm2 --template classification --examples reviews.jsonl -k 0,1,3 --inputs tests.jsonl --csv out.csv
edgelm compare smollm2 ./another -p "Summarize: {{ text }}" --inputs articles.jsonl
edgelm compare grid.toml
"""


@click.command(cls=PagedCommand, epilog=examples(_EXAMPLES))
@click.argument("models", nargs=-1, required=True, metavar="MODEL...|GRID.toml")
@compare_options
@unchecked_generation_options
@form_options
@machine_options
@json_option
def command(
    models: tuple[str, ...],
    comparing: CompareOptions,
    generation: dict[str, Any],
    machine: MachineOptions,
    as_json: bool,
) -> None:
    """Answer prompts with several settings, seeds and models, side by side.

    Every prompt is answered on every input, with every combination of --grid and every seed, by each MODEL in turn.
    What prompts share is computed once. Greedy answers do not depend on the seed, and are made once.

    Columns: tokens, and decoding speed; distinct-1 and -2, the shares of tokens and pairs that are different ones;
    repetition, the share of 4-grams that the answer had before; log probability, sum and per token, under the model's
    own distribution; and with references ROUGE-1, -2 and -L (F1) and chrF.

    GRID.toml has models, prompts, inputs, settings, grid, configurations and seeds; see README.md.
    """
    names, plan = _plan(models, comparing, generation)
    for one in plan.configurations:
        check_together(one.settings)
        refuse_unseen_logprobs(one.settings, "edgelm run --json")
    openers = [_opener(name, machine) for name in names]
    with shown_progress() as progress, prompt_exit():
        from edgelm.comparison.compare import compare_on

        found = compare_on(openers, plan, progress)
    _write(found, comparing)
    if as_json:
        console.answer_json(found.as_dict())
    else:
        from edgelm.cli.comparison_table import comparison_table, terminal_width

        console.answer(comparison_table(found, terminal_width()))


def _plan(models: tuple[str, ...], comparing: CompareOptions, generation: dict[str, Any]) -> tuple[list[str], Plan]:
    from edgelm.comparison.grid_file import read_grid
    from edgelm.comparison.plan import Plan, configurations, inputs_of, prompt_cases, seeds_of

    if any(model.lower().endswith(".toml") for model in models):
        if len(models) > 1 or comparing.plans:
            raise click.UsageError("a TOML file says itself what is compared; give it alone, with settings of answers")
        grid = read_grid(Path(models[0]), generation, _sampling)
        return list(grid.models), grid.plan
    grids = dict(grid_settings(comparing.grid))
    for name in grids:
        if name in generation and not (name == "do_sample" and generation[name]):  # which others may imply
            raise click.UsageError(f"--grid {name} is given, and {name} for all, too; give one of them")
    plan = Plan(
        prompts=prompt_cases(_prompts(comparing)),
        inputs=inputs_of(_inputs(comparing)),
        configurations=_sampling(configurations(grids, (), generation)),
        seeds=seeds_of(comparing.seeds),
        system=None if comparing.system is None else checked_text(comparing.system, "--system"),
        raw=comparing.raw,
    )
    return list(models), plan


def _prompts(comparing: CompareOptions) -> list[Any]:
    prompts: list[Any] = [checked_text(text, "--prompt") for text in comparing.prompts]
    if comparing.template is not None:
        case: dict[str, Any] = {"template": comparing.template, "vars": comparing.variables, "k": comparing.shots}
        if comparing.examples is not None:
            case["examples"] = comparing.examples
        prompts.append(case)
    elif comparing.variables or comparing.examples is not None or comparing.shots is not None:
        raise click.UsageError("--var, --examples and -k are for a template; name one with --template")
    if not prompts:
        raise click.UsageError("there is no prompt; give it with --prompt (-p), or --template")
    return prompts


def _inputs(comparing: CompareOptions) -> Any:
    """What the prompts are tried on: a file of several, one text, or what is piped in."""
    if comparing.inputs is not None:
        if comparing.reference or comparing.input is not None:
            raise click.UsageError("--inputs has texts and references; give no --input or --reference beside it")
        return Path(comparing.inputs)
    references = [checked_text(text, "--reference") for text in comparing.reference]
    text = comparing.input
    if text is None and is_piped():
        text = read_prompt(None, None, "-", what="input") or None
    elif text is not None:
        text = checked_text(text, "--input")
    if text is None and not references:
        return None
    return {"reference": references} | ({} if text is None else {"text": text})


def _sampling(chosen: tuple[Configuration, ...]) -> tuple[Configuration, ...]:
    """Configurations as the command line means them: a temperature or a cut asks for sampling."""
    return tuple(
        replace(one, settings={**one.settings, "do_sample": True})
        if "do_sample" not in one.settings and implies_sampling(dict(one.settings))
        else one
        for one in chosen
    )


def _opener(name: str, machine: MachineOptions) -> Opener:
    """The model, which is there by then: none is missed only after hours on another."""
    from edgelm.comparison.compare import Opener

    folder = ensure_installed(name, offline=machine.offline, max_memory=machine.max_memory)
    return Opener(name, lambda: load_folder(folder, machine), system_prompt(folder, None))


def _write(found: Comparison, comparing: CompareOptions) -> None:
    from edgelm.comparison.csv_table import csv_table
    from edgelm.comparison.html_page import comparison_page

    for path, render in ((comparing.html, comparison_page), (comparing.csv, csv_table)):
        if path is not None:
            write_output(path, render(found).encode("utf-8", "replace"))
