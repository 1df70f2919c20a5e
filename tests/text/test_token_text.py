"""Tokens one at a time: joined, and one of them recognised in users' texts."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.tokenizers import byte_fallback, byte_level, unigram, word_level, word_piece
from tokenizers import AddedToken

from edgelm.errors import ModelError
from edgelm.text.encoding import TextEncoder
from edgelm.text.token_text import join_tokens, marks_continuation, reading_token, token_label, without_stray_spaces
from edgelm.text.tokenizer import Tokenizer


def with_mask(native: Any, mask: str, **settings: Any) -> Tokenizer:
    native.add_special_tokens([AddedToken(mask, normalized=False, **settings)])
    return Tokenizer(native)


@pytest.mark.parametrize("build", [byte_level, byte_fallback, unigram, word_piece])
def test_joined_tokens_are_the_decoded_text(build: Any) -> None:
    tokenizer = Tokenizer(build())
    ids = tokenizer.encode("the shells she sells", add_special_tokens=False)
    tokens = [str(tokenizer.id_to_token(token_id)) for token_id in ids]
    assert join_tokens(tokenizer, tokens) == tokenizer.decode(ids)


def test_without_a_decoder_tokens_are_joined_by_spaces() -> None:
    assert join_tokens(Tokenizer(word_level()), ["lazy", "dog."]) == "lazy dog."


def test_word_piece_marks_continuation_and_byte_level_does_not() -> None:
    assert marks_continuation(Tokenizer(word_piece()))
    assert not marks_continuation(Tokenizer(byte_level()))
    assert not marks_continuation(Tokenizer(unigram()))


def test_only_the_one_special_token_is_read() -> None:
    tokenizer = with_mask(word_piece(), "[MASK]")
    reader = reading_token(tokenizer, "[MASK]")
    tokens = TextEncoder(reader).encode("the [MASK] fox [SEP]").tokens
    assert tokens[:4] == ["[CLS]", "the", "[MASK]", "fox"]
    assert tokens.count("[SEP]") == 1
    assert "[MASK]" not in TextEncoder(tokenizer).encode("the [MASK] fox").tokens


def test_it_swallows_the_space_that_it_was_told_to() -> None:
    reader = reading_token(with_mask(byte_level(), "<mask>", lstrip=True), "<mask>")
    encoding = TextEncoder(reader).encode("the <mask> dog")
    assert encoding.offsets[encoding.ids.index(reader.token_to_id("<mask>"))] == (3, 10)


def test_a_piece_that_spells_another_special_token_stays_text() -> None:
    reader = reading_token(with_mask(unigram(with_bytes=False), "<mask>"), "<mask>")
    ids = TextEncoder(reader).encode("sea <mask> </s> shore").ids
    assert reader.token_to_id("<mask>") in ids
    assert reader.token_to_id("</s>") not in ids


def test_ids_are_the_tokenizers_own() -> None:
    tokenizer = with_mask(byte_level(), "<mask>")
    reader = reading_token(tokenizer, "<mask>")
    assert reader.vocab_size == tokenizer.vocab_size
    assert reader.encode("sea shells </think>") == tokenizer.encode("sea shells </think>")


def test_a_token_that_is_not_special_is_refused() -> None:
    with pytest.raises(ModelError, match="'the' is not a special token"):
        reading_token(Tokenizer(word_piece()), "the")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("it ' s here , is n't it ?", "it's here, isn't it?"),
        ('we \'ve said : " no " !', 'we\'ve said : " no "!'),
        ("I 'm , you 're", "I'm, you're"),
        ("a . b", "a. b"),
        ("", ""),
    ],
)
def test_stray_spaces_are_taken_out(text: str, expected: str) -> None:
    assert without_stray_spaces(text) == expected


@pytest.mark.reference
@given(st.lists(st.sampled_from([" ", "'", ".", "n't", "s", "'s", "ve", "re", "'m", "?", "!", ",", "a"]), max_size=12))
def test_stray_spaces_are_those_of_transformers(parts: list[str]) -> None:
    base = pytest.importorskip("transformers").PreTrainedTokenizerBase
    text = "".join(parts)
    assert without_stray_spaces(text) == base.clean_up_tokenization(text)


@pytest.mark.parametrize(
    ("build", "labels"),
    [
        (byte_level, ["t", "he", " shells", " ", "Ã", "©"]),
        (byte_fallback, [" the", " shells", " ", "<0xC3>", "<0xA9>"]),
        (unigram, [" t", "he", " shells", " ", "<0xC3>", "<0xA9>"]),
        (word_piece, ["the", "shells", "e"]),
        (word_level, ["the", "shells", "<unk>"]),
    ],
)
def test_labels_of_tokens(build: Any, labels: list[str]) -> None:
    tokenizer = Tokenizer(build())
    ids = tokenizer.encode("the shells é", add_special_tokens=False)
    assert [token_label(tokenizer, token_id) for token_id in ids] == labels


def test_labels_of_special_tokens_and_of_ids_that_are_not_in_use() -> None:
    tokenizer = Tokenizer(byte_level())
    assert token_label(tokenizer, min(tokenizer.special_token_ids)) == "<|endoftext|>"
    assert token_label(tokenizer, tokenizer.vocab_size) == f"#{tokenizer.vocab_size}"
