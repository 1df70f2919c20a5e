"""``edgelm qa``: an answer that stands in a document, word for word."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from edgelm.cli import console
from edgelm.cli.help_page import PagedCommand, examples
from edgelm.cli.installed import ensure_installed
from edgelm.cli.interrupt import prompt_exit
from edgelm.cli.loading import load_encoder_folder
from edgelm.cli.options import MachineOptions, file_option, json_option, machine_options
from edgelm.cli.prompt_input import checked_text, read_prompt
from edgelm.cli.units import table

if TYPE_CHECKING:
    from edgelm.tasks.answer_spans import Answer

_WAYS = "with --context, with --file, or on standard input"
_EXAMPLES = """
edgelm qa ./my-qa-model "Who wrote it?" --file novel.txt
edgelm qa ./my-qa-model "Where do I live?" --context "I live in Berlin." --top-k 3
edgelm qa ./my-qa-model "When was it built?" --no-answer --json < article.txt
"""


@click.command(cls=PagedCommand, epilog=examples(_EXAMPLES))
@click.argument("model")
@click.argument("question")
@click.option("--context", help="The document.")
@file_option("document")
@click.option("--top-k", type=click.IntRange(min=1), default=1, metavar="N", help="Most answers.  [1]")
@click.option("--no-answer", is_flag=True, help="Allow that the document has no answer.")
@machine_options
@json_option
def command(
    model: str,
    question: str,
    context: str | None,
    file: str | None,
    top_k: int,
    no_answer: bool,
    machine: MachineOptions,
    as_json: bool,
) -> None:
    """Find the answer to a question in a document.

    The document may be of any length. Each line of the answer has its probability, its place in the document in
    characters, and its text.
    """
    asked = checked_text(question, "the question")
    document = read_prompt(None, context, file, what="document", ways=_WAYS)
    folder = ensure_installed(model, offline=machine.offline, max_memory=machine.max_memory)
    with prompt_exit(), load_encoder_folder(folder, machine) as encoder:
        from edgelm.tasks.question_answering import AnswerConfig, Question, QuestionAnswerer

        config = AnswerConfig(top_k=top_k, handle_impossible_answer=no_answer)
        (answers,) = QuestionAnswerer(encoder).answer([Question(asked, document)], config)
        if as_json:
            fields = {"model": encoder.name, "answers": [answer.as_dict() for answer in answers]}
            console.answer_json(fields)
        elif answers:
            console.answer(table(("score", "place", "answer"), [_row(answer) for answer in answers]) + "\n")
        else:
            console.say("no answer")


def _row(answer: Answer) -> tuple[str, ...]:
    shown = console.one_line(answer.answer) or "(no answer)"
    return f"{answer.score:.3f}", f"{answer.start}-{answer.end}", shown
