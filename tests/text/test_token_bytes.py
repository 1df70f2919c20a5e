from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import tokenizers as build
from tokenizers import AddedToken, decoders

from edgelm.errors import UnsupportedModelError
from edgelm.text.token_bytes import token_bytes
from edgelm.text.tokenizer import Tokenizer

KINDS: dict[str, Callable[[], object]] = {
    "byte level": build.byte_level,
    "byte level from GGUF": build.fused_byte_level,
    "byte fallback": build.byte_fallback,
    "byte fallback, normalizer": lambda: build.byte_fallback("normalizer"),
    "unigram": lambda: build.unigram(with_bytes=False),
    "unigram with bytes": build.unigram,
}
MADE = {name: Tokenizer(make()) for name, make in KINDS.items()}


def shown(read, ids) -> str:
    """The text that the bytes of tokens spell."""
    text = b"".join(read.tokens[token] for token in ids).decode(errors="replace")
    return text.removeprefix(" ") if read.drops_first_space else text


@pytest.mark.parametrize("kind", KINDS)
@given(data=st.data())
def test_bytes_joined_are_the_decoded_text(kind: str, data) -> None:
    tokenizer = MADE[kind]
    read = token_bytes(tokenizer)
    # Bytes that are no UTF-8 are replaced in another way where they are tokens of their own.
    own = [
        token
        for token, value in enumerate(read.tokens)
        if value and (value.isascii() or not tokenizer.has_byte_fallback)
    ]
    ids = data.draw(st.lists(st.sampled_from(own), max_size=12))
    assert shown(read, ids) == tokenizer.decode(ids)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("text", build.SENTENCES)
def test_texts_come_back(kind: str, text: str) -> None:
    tokenizer = MADE[kind]
    ids = tokenizer.encode(text, add_special_tokens=False)
    assert shown(token_bytes(tokenizer), ids) == tokenizer.decode(ids)


def test_special_tokens_have_no_text_and_others_that_were_added_have() -> None:
    tokenizer = MADE["byte level"]
    tokens = token_bytes(tokenizer).tokens
    assert all(tokens[token] == b"" for token in tokenizer.special_token_ids)
    assert tokens[tokenizer.token_to_id("</think>")] == b"</think>"


def test_characters_outside_the_byte_alphabet_stand_for_themselves() -> None:
    made = build.byte_level()
    made.add_tokens([AddedToken(text, normalized=False) for text in ("two words", "▁", "é", "ÄŁ\u00ad")])
    tokenizer = Tokenizer(made)
    read = token_bytes(tokenizer)
    for text in ("two words", "▁", "é", "ÄŁ\u00ad"):
        token = tokenizer.token_to_id(text)
        assert read.tokens[token].decode(errors="replace") == tokenizer.decode([token])


def test_a_first_token_that_would_lose_more_than_a_space_has_no_text() -> None:
    made = build.unigram()
    made.add_tokens([AddedToken(text, normalized=False) for text in ("▁▁", "a▁b", " c", "▁d")])
    tokenizer = Tokenizer(made)
    tokens = token_bytes(tokenizer).tokens
    by_text = {text: tokens[tokenizer.token_to_id(text)] for text in ("▁▁", "a▁b", " c", "▁d", "<0x20>", "<0x41>")}
    assert by_text == {"▁▁": b"", "a▁b": b"", " c": b"", "▁d": b" d", "<0x20>": b"", "<0x41>": b"A"}


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (build.word_level, "has no decoder"),
        (build.word_piece, "is WordPiece"),
        (lambda: decoded_by(decoders.BPEDecoder()), "is BPEDecoder"),
        (lambda: decoded_by(decoders.CTC()), "is CTC"),
        (lambda: decoded_by(decoders.Strip(" ", 2, 0)), "is Strip"),
        (lambda: decoded_by(regex_replace()), "is Replace"),
    ],
)
def test_what_has_no_bytes_of_its_own_is_refused_with_the_reason(make, why: str) -> None:
    with pytest.raises(UnsupportedModelError, match=f"held to a form with this model: its tokenizer's decoder {why}"):
        token_bytes(Tokenizer(make()))


def decoded_by(decoder):
    tokenizer = build.byte_level()
    tokenizer.decoder = decoder
    return tokenizer


def regex_replace():
    from edgelm.text.pipeline import build_part

    state = {"type": "Replace", "pattern": {"Regex": "a+"}, "content": "b"}
    return build_part("decoder", json.loads(json.dumps(state)))
