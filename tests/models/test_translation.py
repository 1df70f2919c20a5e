"""The catalog's translators: their tokens are those of a plain float32 reading of the same weights."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.bergamot_reference import BergamotReference
from support.source_tree import ROOT

import edgelm
from edgelm.tasks.translation import Translator
from edgelm.text.sentences import split_sentences
from edgelm_tools.checkpoint.bergamot_checkpoint import BergamotCheckpoint

SENTENCES = 200
LEAST_EQUAL = 0.97
MOST_TOKENS = 200
KNOWN = [
    (
        "en-pt",
        "The children were playing happily in the garden.",
        "As crianças estavam brincando alegremente no jardim.",
    ),
    (
        "en-pt",
        "The meeting was moved to Thursday because the manager is travelling.",
        "A reunião foi transferida para quinta-feira porque o gerente está viajando.",
    ),
    ("pt-en", "As crianças estavam brincando no jardim.", "The children were playing in the garden."),
]


def sentences() -> list[str]:
    """The first sentences of the bundled English texts, without headings and pieces of programs."""
    texts = [
        (ROOT / "tools/texts" / name).read_text(encoding="utf-8") for name in ("evaluation.txt", "calibration.txt")
    ]
    found = [sentence.strip() for text in texts for sentence in split_sentences(text, "en")]
    return [sentence for sentence in found if sentence[0].isupper() and sentence[-1] in ".!?"][:SENTENCES]


@pytest.mark.parametrize(("name", "text", "expected"), KNOWN)
def test_known_translations(name: str, text: str, expected: str) -> None:
    with edgelm.load(name) as lm:
        assert Translator(lm).translate(text).text == expected


def test_the_tokens_of_int8_are_those_of_float32(home: Path) -> None:
    texts = sentences()
    assert len(texts) == SENTENCES
    (model,) = (home / "downloads").rglob("model.enpt.*.bin")
    reference = BergamotReference(BergamotCheckpoint(model.parent))
    with edgelm.load("en-pt") as lm:
        sources = [lm.tokenizer.encode(text) for text in texts]
        answers = lm.generate_batch(sources, max_new_tokens=MOST_TOKENS)
    others = [
        text
        for text, source, answer in zip(texts, sources, answers, strict=True)
        if not reference.would_write(source, answer.token_ids)
    ]
    assert len(others) <= (1 - LEAST_EQUAL) * SENTENCES, others


def test_a_text_keeps_its_form(command: Callable[..., Any]) -> None:
    text = "# Notes\n\n  * Good morning, Mr. Smith.  How are you?\n  * I am fine.\n"
    done = command("translate", "--to", "pt", "--json", "-", stdin=text)
    assert done.returncode == 0, done.stderr
    made = json.loads(done.stdout)
    assert made["sentences"] == 4
    lines = made["translation_text"].split("\n")
    assert [line[:4] for line in lines[1:]] == ["", "  * ", "  * "]
    assert lines[2].count(".  ") == 1
    assert "Smith" in lines[2]
