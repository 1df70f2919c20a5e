from __future__ import annotations

import time
from functools import cache

import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from support import tokenizers as build

from edgelm.errors import PromptError
from edgelm.text.detokenizer import IncrementalDetokenizer
from edgelm.text.tokenizer import Tokenizer


def ctc() -> tokenizers.Tokenizer:
    backend = build.word_level()
    backend.decoder = tokenizers.decoders.CTC("<unk>", "a")
    return backend


def bpe_suffix() -> tokenizers.Tokenizer:
    backend = tokenizers.Tokenizer(tokenizers.models.BPE({"a": 0, "a</w>": 1, "b</w>": 2, "</w>": 3}, []))
    backend.decoder = tokenizers.decoders.BPEDecoder(suffix="</w>")
    return backend


BUILDERS = {
    "byte_level": build.byte_level,
    "fused_byte_level": build.fused_byte_level,
    "byte_fallback": build.byte_fallback,
    "unigram": build.unigram,
    "unigram_without_bytes": lambda: build.unigram(with_bytes=False),
    "word_level": build.word_level,
    "word_piece": build.word_piece,
    "bpe_suffix": bpe_suffix,
    "ctc": ctc,
}
EMOJI = "👩‍👩‍👧 🌍🎉 你好世界 こんにちは naïve"


@cache
def made(name: str) -> Tokenizer:
    return Tokenizer(BUILDERS[name]())


def stream(tokenizer: Tokenizer, ids: list[int], **options: bool) -> list[str]:
    detokenizer = IncrementalDetokenizer(tokenizer, **options)
    return [*map(detokenizer.push, ids), detokenizer.finish()]


@pytest.mark.parametrize("name", BUILDERS)
@given(data=st.data())
def test_pieces_are_the_whole_text_for_any_ids(name: str, data: st.DataObject) -> None:
    tokenizer = made(name)
    ids = data.draw(st.lists(st.integers(0, tokenizer.vocab_size - 1), max_size=60))
    assert "".join(stream(tokenizer, ids)) == tokenizer.decode(ids)
    kept = stream(tokenizer, ids, skip_special_tokens=False)
    assert "".join(kept) == tokenizer.decode(ids, skip_special_tokens=False)


@pytest.mark.parametrize("name", ["byte_level", "fused_byte_level", "byte_fallback", "unigram"])
@given(data=st.data())
def test_pieces_are_the_whole_text_for_any_bytes(name: str, data: st.DataObject) -> None:
    tokenizer = made(name)
    if "byte_level" in name:
        single = [i for i in range(tokenizer.vocab_size) if len(tokenizer.id_to_token(i) or "") == 1]
    else:
        single = [tokenizer.token_to_id(f"<0x{byte:02X}>") for byte in range(256)]
    some = st.sampled_from(single) | st.integers(0, tokenizer.vocab_size - 1)
    utf8 = st.text(max_size=8).map(lambda text: tokenizer.encode(text, add_special_tokens=False))
    parts = data.draw(st.lists(st.lists(some, max_size=6) | utf8, max_size=12))
    ids = [token_id for part in parts for token_id in part]
    assert "".join(stream(tokenizer, ids)) == tokenizer.decode(ids)


@pytest.mark.parametrize("name", ["byte_level", "byte_fallback", "unigram"])
@given(text=st.text(max_size=40) | st.just(EMOJI))
def test_text_streams_without_replacement_characters(name: str, text: str) -> None:
    tokenizer = made(name)
    pieces = stream(tokenizer, tokenizer.encode(text, add_special_tokens=False))
    assert "\ufffd" in text or not any("\ufffd" in piece for piece in pieces)


def test_a_byte_level_character_comes_with_its_last_byte() -> None:
    tokenizer = made("byte_level")
    ids = [tokenizer.token_to_id(_alphabet()[byte]) for byte in "🦜".encode()]
    detokenizer = IncrementalDetokenizer(tokenizer)
    assert [detokenizer.push(i) for i in ids] == ["", "", "", "🦜"]


def test_a_byte_run_comes_when_it_ends() -> None:
    tokenizer = made("byte_fallback")
    ids = [tokenizer.token_to_id(f"<0x{byte:02X}>") for byte in "你".encode()]
    detokenizer = IncrementalDetokenizer(tokenizer)
    assert [detokenizer.push(i) for i in ids] == ["", "", ""]
    following = tokenizer.encode_continuation(" the")
    assert "".join(map(detokenizer.push, following)) == "你 the"
    assert detokenizer.finish() == ""


def test_words_stream_at_once_with_their_spaces() -> None:
    tokenizer = made("byte_fallback")
    pieces = stream(tokenizer, tokenizer.encode("the lazy dog"))
    assert "".join(pieces) == "the lazy dog"
    assert pieces[0]
    assert pieces[-1] == ""


def test_special_tokens_are_skipped_without_a_trace() -> None:
    tokenizer = made("byte_fallback")
    end = tokenizer.token_to_id("</s>")
    ids = [end] * 30 + tokenizer.encode("the dog") + [end] * 30 + tokenizer.encode_continuation(" the")
    assert "".join(stream(tokenizer, ids)) == tokenizer.decode(ids) == "the dog the"


def test_tokens_without_text_do_not_make_a_new_start() -> None:
    backend = tokenizers.Tokenizer(tokenizers.models.WordLevel({"": 0, "▁a": 1}, unk_token=""))
    steps = [tokenizers.decoders.Replace("▁", " "), tokenizers.decoders.Fuse(), tokenizers.decoders.Strip(" ", 1, 0)]
    backend.decoder = tokenizers.decoders.Sequence(steps)
    assert "".join(stream(Tokenizer(backend), [1, *[0] * 30, 1])) == "a a"


def test_a_decoder_of_the_whole_text_is_held_to_the_end() -> None:
    tokenizer = made("ctc")
    assert not tokenizer.streams
    ids = tokenizer.encode("the fox and")
    assert stream(tokenizer, ids)[:-1] == [""] * len(ids)


def test_ids_out_of_range_are_refused() -> None:
    detokenizer = IncrementalDetokenizer(made("byte_level"))
    with pytest.raises(PromptError, match="out of range"):
        detokenizer.push(10**6)
    with pytest.raises(PromptError, match="out of range"):
        detokenizer.push(-1)


def test_after_finish_it_is_as_new() -> None:
    tokenizer = made("byte_fallback")
    detokenizer = IncrementalDetokenizer(tokenizer)
    ids = tokenizer.encode("the dog")
    for _ in range(2):
        assert "".join([*map(detokenizer.push, ids), detokenizer.finish()]) == "the dog"


@pytest.mark.parametrize("repeated", ["s", "<0xFF>", "holes"])
def test_work_a_token_does_not_grow_with_the_text(repeated: str) -> None:
    tokenizer = made("byte_fallback") if repeated != "holes" else Tokenizer(_with_holes())
    token_id = 5 if repeated == "holes" else tokenizer.token_to_id(repeated)
    detokenizer = IncrementalDetokenizer(tokenizer)
    started = time.perf_counter()
    for _ in range(30_000):
        detokenizer.push(token_id)
    detokenizer.finish()
    # Decoding everything for each token takes minutes here.
    assert time.perf_counter() - started < 10


def _with_holes() -> tokenizers.Tokenizer:
    return tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0, "b": 9}, unk_token="a"))


def _alphabet() -> list[str]:
    """The byte-level character of each byte."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = iter(range(256, 512))
    return [chr(byte) if byte in printable else chr(next(others)) for byte in range(256)]
