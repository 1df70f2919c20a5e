"""``edgelm classify``: which labels fit a text."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from edgelm.cli import console
from edgelm.cli.help_page import PagedCommand, examples
from edgelm.cli.installed import ensure_installed
from edgelm.cli.interrupt import prompt_exit
from edgelm.cli.loading import load_for_labels
from edgelm.cli.options import MachineOptions, file_option, json_option, machine_options, truncate_option
from edgelm.cli.prompt_input import checked_text
from edgelm.cli.text_input import places_as_given, read_texts
from edgelm.cli.units import table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgelm.encoder_model import EncoderModel
    from edgelm.language_model import LanguageModel

_EXAMPLES = """
edgelm classify minilm --labels "sport,politics,weather" "Rain is on its way."
edgelm classify minilm --labels "sport,politics,weather" -f headlines.txt --json
edgelm classify hf:distilbert/distilbert-base-uncased-finetuned-sst-2-english "What a day!"
"""


@click.command(cls=PagedCommand, epilog=examples(_EXAMPLES))
@click.argument("model")
@click.argument("texts", nargs=-1, metavar="[TEXT]...")
@file_option("texts", each_line=True)
@click.option("--labels", metavar="A,B,…", help="Labels of your own; default: those that the model was trained with.")
@click.option("--multi-label", is_flag=True, help="Each of your labels holds or not, whatever the others do.")
@click.option("--template", metavar="TEXT", help="Makes a sentence of a label of yours, which stands for {}.")
@click.option("--top-k", type=click.IntRange(min=1), metavar="N", help="Most labels of a text; default: all.")
@truncate_option
@machine_options
@json_option
def command(
    model: str,
    texts: tuple[str, ...],
    file: str | None,
    labels: str | None,
    multi_label: bool,
    template: str | None,
    top_k: int | None,
    truncate: bool,
    machine: MachineOptions,
    as_json: bool,
) -> None:
    """Label texts.

    The texts are arguments, or the lines of a file or of standard input. An empty line is a text, too; for labels of
    your own it is refused. With --labels any labels can be asked for: of a model of entailment (NLI), of one that makes
    vectors, or of one that writes text.
    """
    if labels is None and (multi_label or template is not None):
        raise click.UsageError("--multi-label and --template are for labels of your own; give them with --labels")
    given = read_texts(texts, file)
    own = None if labels is None else _own_settings(labels, template, multi_label=multi_label, truncation=truncate)
    folder = ensure_installed(model, offline=machine.offline, max_memory=machine.max_memory)
    with prompt_exit(), places_as_given(texts), load_for_labels(folder, machine) as loaded:
        if own is None:
            found = _trained_labels(loaded, given, top_k, truncate)
        else:
            found = _own_labels(loaded, given, top_k, own)
        name = loaded.bundle.manifest.name
    if as_json:
        results = [
            {"text": text, "labels": [{"label": label, "score": score} for label, score in rows]}
            for text, rows in zip(given, found, strict=True)
        ]
        console.answer_json({"model": name, "results": results})
        return
    rows = [
        (console.one_line(label), f"{score:.3f}", console.one_line(text))
        for text, scores in zip(given, found, strict=True)
        for label, score in scores
    ]
    console.answer(table(("label", "score", "text"), rows) + "\n")


def _trained_labels(
    model: EncoderModel | LanguageModel, texts: Sequence[str], top_k: int | None, truncate: bool
) -> list[list[tuple[str, float]]]:
    from edgelm.encoder_model import EncoderModel
    from edgelm.tasks.classification import TextClassifier

    if not isinstance(model, EncoderModel) or model.bundle.manifest.head is None:
        raise click.UsageError(f"{model.bundle.manifest.name} has no labels of its own; give some with --labels")
    found = TextClassifier(model).classify(texts, top_k=top_k, truncation=truncate)
    return [[(label.label, label.score) for label in labels] for labels in found]


def _own_settings(labels: str, template: str | None, **settings: Any) -> dict[str, Any]:
    """What ``ZeroShotClassifier.classify`` takes, checked before a model is loaded."""
    from edgelm.tasks.zero_shot import check_template, checked_labels

    settings["labels"] = checked_labels(checked_text(labels, "--labels"))
    if template is not None:
        settings["hypothesis_template"] = checked_text(template, "--template")
        check_template(template)
    return settings


def _own_labels(
    model: EncoderModel | LanguageModel, texts: Sequence[str], top_k: int | None, settings: dict[str, Any]
) -> list[list[tuple[str, float]]]:
    from edgelm.tasks.any_labels import zero_shot_classifier

    results = zero_shot_classifier(model).classify(texts, **settings)
    return [list(zip(result.labels, result.scores, strict=True))[:top_k] for result in results]
