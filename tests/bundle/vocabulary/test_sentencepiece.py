from __future__ import annotations

import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from support.marian_files import field, sentencepiece_file, varint

from edgelm.bundle.vocabulary.sentencepiece import (
    CONTROL,
    NORMAL,
    UNKNOWN,
    USER_DEFINED,
    Frame,
    SentencePieceModel,
    tokenizer_json,
)
from edgelm.errors import ModelError, UnsupportedModelError
from edgelm.text.tokenizer import Tokenizer

SPECIALS = [("</s>", 0.0, CONTROL), ("<unk>", 0.0, UNKNOWN)]
PIECES = [
    *SPECIALS,
    ("▁", -3.0, NORMAL),
    ("▁he", -2.0, NORMAL),
    ("ll", -2.5, NORMAL),
    ("l", -4.0, NORMAL),
    ("o", -3.5, NORMAL),
]
BYTES = [(f"<0x{value:02X}>", 0.0, 6) for value in range(256)]


def flag(number: int, value: int) -> bytes:
    return varint(number << 3) + varint(value)


def tokenizer(data: bytes, **around: tuple[str, ...]) -> Tokenizer:
    model = SentencePieceModel.parse(data, what="x.spm")
    return Tokenizer(tokenizers.Tokenizer.from_buffer(tokenizer_json(model, Frame(**around))))


# Ids as the package sentencepiece gives them for the same model.
@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("hello", [3, 4, 6]),
        ("  hello   hello ", [3, 4, 6, 3, 4, 6]),
        ("lol", [2, 5, 6, 5]),
        ("hexyo", [3, 1, 6]),
        ("", []),
        ("   ", []),
    ],
)
def test_ids(text: str, ids: list[int]) -> None:
    assert tokenizer(sentencepiece_file(PIECES)).encode(text) == ids


def test_a_control_piece_in_a_text_is_text() -> None:
    made = tokenizer(sentencepiece_file(PIECES), suffix=("</s>",))
    assert made.encode("hello") == [3, 4, 6, 0]
    assert 0 not in made.encode("</s>")[:-1]
    assert made.decode([3, 4, 6, 0]) == "hello"


def test_pieces_around_a_text_must_exist() -> None:
    with pytest.raises(ModelError, match="no piece '<s>'"):
        tokenizer(sentencepiece_file(PIECES), prefix=("<s>",))


def test_characters_out_of_the_vocabulary_as_bytes() -> None:
    made = tokenizer(sentencepiece_file([*PIECES, *BYTES], trainer=flag(35, 1)))
    assert made.encode("hello é") == [3, 4, 6, 2, 7 + 0xC3, 7 + 0xA9]
    assert made.decode(made.encode("hello é")) == "hello é"


def test_pieces_that_users_defined_come_first() -> None:
    made = tokenizer(sentencepiece_file([*PIECES, ("ello", 0.0, USER_DEFINED)]))
    assert 7 in made.encode("hello")


def test_spaces_are_kept_if_the_model_says_so() -> None:
    made = tokenizer(sentencepiece_file(PIECES, normalizer=flag(4, 0) + flag(3, 0)))
    assert made.encode(" hello") == [3, 4, 6]
    assert made.encode("ll  ll") == [4, 2, 2, 4]


def test_pieces_over_several_words_are_found() -> None:
    made = tokenizer(sentencepiece_file([*PIECES, ("▁he▁he", -1.0, NORMAL)]))
    assert made.encode("he he") == [7]


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        (sentencepiece_file(PIECES, trainer=flag(3, 2)), UnsupportedModelError, "type BPE"),
        (sentencepiece_file(PIECES, trainer=flag(24, 1)), UnsupportedModelError, "treat_whitespace_as_suffix"),
        (sentencepiece_file(PIECES, normalizer=flag(5, 0)), UnsupportedModelError, "escape_whitespaces"),
        (sentencepiece_file([*PIECES, ("l", 0.0, NORMAL)]), ModelError, "piece 7 is 'l' again"),
        (sentencepiece_file([*PIECES, ("", 0.0, NORMAL)]), ModelError, "piece 7 is empty"),
        (sentencepiece_file([*PIECES, ("x", float("nan"), NORMAL)]), ModelError, "score nan"),
        (sentencepiece_file([*PIECES, ("x", 0.0, 9)]), ModelError, "type 9"),
        (sentencepiece_file(PIECES[2:]), ModelError, "0 pieces stand for what is unknown"),
        (sentencepiece_file(PIECES)[:-1] + b"\xff", ModelError, "not a valid SentencePiece model"),
        (field(1, field(1, b"\xff")), ModelError, "not UTF-8"),
        (b"", ModelError, "0 pieces"),
    ],
)
def test_what_is_refused(data: bytes, error: type[ModelError], message: str) -> None:
    with pytest.raises(error, match=message):
        SentencePieceModel.parse(data, what="x.spm")


@given(st.binary(max_size=200), st.integers(0, 150))
def test_no_bytes_lead_astray(noise: bytes, place: int) -> None:
    good = sentencepiece_file(PIECES)
    for data in (noise, good[:place] + noise + good[place + len(noise) :]):
        try:
            model = SentencePieceModel.parse(data, what="x.spm")
        except ModelError:
            continue
        assert tokenizer_json(model)
