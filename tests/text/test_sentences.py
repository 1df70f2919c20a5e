from __future__ import annotations

import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgelm.text.abbreviations import LANGUAGES, abbreviations
from edgelm.text.language_codes import base_language
from edgelm.text.sentences import split_clauses, split_sentences

TEXTS = st.text(st.sampled_from('aA bZ.. !?…,;:"”»)( \n\r\t\u00a0\u2028「」。！éß3９٣ა🙂\u0301') | st.characters())


@pytest.mark.parametrize(
    ("language", "sentences"),
    [
        (None, ["Mr. Smith met Dr. J. R. Jones. ", "They spoke."]),
        (None, ['"Stop!" he cried. ', '"Really?" ', "She left... ", "Well, e.g. Fig. 3 did not."]),
        (None, ["The U.S. Army came at 5 p.m. ", "It was late."]),
        (None, ["It costs 3.50 at example.com. ", "That was in 1999. ", "No. 5 won."]),
        (None, ["I said no. ", "He agreed."]),
        (None, ["Wait… what? ", "(Yes.) ", "“Fine.” ", "So be it."]),
        (None, ["The end. \n\n", "One line\n", "and another\r\n\r\n  ", "1. An item. ", "- more"]),
        ("de", ["Am 3. Oktober kam Hr. Meier, z.B. mit Hund. ", "Er wog ca. 5 kg. ", "Das war 1999. ", "Ja."]),
        ("fr", ["M. Dupont arrive. ", "Qui est-ce ? ", "« Moi ! » ", "C'est bien."]),
        ("es", ["¿Qué? ", "¡No! ", "El Sr. López vive aquí. ", "Vale."]),
        ("pt-BR", ["O Sr. Silva e a Dra. Costa chegaram. ", "A pág. 12 faltava. ", "Fim."]),
        ("it", ["Il sig. Rossi parte. ", "Ciao."]),
        ("pl", ["To jest 3. raz, np. Tutaj. ", "Koniec."]),
        ("ru", ["Он жил на ул. Ленина. ", "Да."]),
        ("el", ["Τι; ", "Ναι."]),
        ("ja", ["彼は言った。", "「はい！」", "そして去った。", "終わり"]),
        ("zh", ["你好！", "他说：“是的。”", "再见。"]),
        ("hi", ["यह है। ", "वह भी।"]),
        ("ar", ["كيف؟ ", "نعم."]),
    ],
)
def test_sentences(language: str | None, sentences: list[str]) -> None:
    assert split_sentences("".join(sentences), language) == sentences


@given(TEXTS, st.sampled_from([None, "de", "el", "xx", "por_Latn"]))
def test_the_pieces_are_the_text(text: str, language: str | None) -> None:
    for split in (split_sentences(text, language), split_clauses(text)):
        assert "".join(split) == text
        assert "" not in split


@given(TEXTS)
def test_no_sentence_goes_over_a_line_break(text: str) -> None:
    for sentence in split_sentences(text):
        assert len(sentence.strip().splitlines()) <= 1


def test_clauses() -> None:
    assert split_clauses("He came, saw – and won; 3,5 times: yes") == [
        "He came, ",
        "saw – ",
        "and won; ",
        "3,5 times: ",
        "yes",
    ]


def test_abbreviations_of_an_unknown_language_are_the_english_ones() -> None:
    assert abbreviations("tlh") == abbreviations(None) == abbreviations("en") != abbreviations("de")
    for language in LANGUAGES:
        known = abbreviations(language)
        for word in known.before_words | known.before_numbers:
            assert word == word.lower()
            assert not word.endswith(".")


@pytest.mark.parametrize(
    ("code", "language"),
    [
        *((None, None), ("pt", "pt"), ("pt-BR", "pt"), ("pt_XX", "pt"), ("por_Latn", "pt"), ("EN", "en")),
        *(("Portuguese", "pt"), ("xyz", "xyz")),
    ],
)
def test_base_language(code: str | None, language: str | None) -> None:
    assert base_language(code) == language


@pytest.mark.parametrize("text", ["." * 100_000, "a." * 100_000, '."' * 100_000, " " * 100_000 + ".", "\n " * 100_000])
def test_odd_texts_take_no_time(text: str) -> None:
    begun = time.process_time()
    assert "".join(split_sentences(text)) == text
    assert time.process_time() - begun < 2


class Sliced(str):
    """A text that counts the characters of what is cut out of it."""

    characters = 0

    def __getitem__(self, key: Any) -> str:
        piece = super().__getitem__(key)
        self.characters += len(piece)
        return piece


@pytest.mark.parametrize(("text", "language"), [("Dr. ", "en"), ("3. ", "de"), ("U.S. ", "en")])
def test_the_work_grows_with_the_text_also_where_no_sentence_ends(text: str, language: str) -> None:
    whole = Sliced(f"On {text * 2000}")
    assert len(split_sentences(whole, language)) == 1
    assert whole.characters < 5 * len(whole)
