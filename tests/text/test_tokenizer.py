from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from support import tokenizers as build

from edgelm.errors import ModelError, PromptError
from edgelm.text import tokenizer as tokenizer_module
from edgelm.text.tokenizer import Tokenizer

BUILDERS = {
    "byte_level": build.byte_level,
    "byte_fallback": build.byte_fallback,
    "byte_fallback_normalizer": lambda: build.byte_fallback("normalizer"),
    "unigram": build.unigram,
    "word_level": build.word_level,
    "word_piece": build.word_piece,
}
REFERENCES = {name: builder() for name, builder in BUILDERS.items()}
# Copies: training twice does not always give the same vocabulary.
TOKENIZERS = {name: Tokenizer(tokenizers.Tokenizer.from_str(made.to_str())) for name, made in REFERENCES.items()}
TEXTS = st.text(max_size=60) | st.sampled_from(build.SENTENCES)


def write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


@pytest.fixture
def bos() -> Tokenizer:
    return Tokenizer(build.byte_level_with_bos())


@pytest.mark.parametrize("name", BUILDERS)
@given(text=TEXTS)
def test_markup_gives_the_library_s_own_ids(name: str, text: str) -> None:
    marked = f"{text}<|im_end|></s>[SEP] {text}"
    expected = REFERENCES[name].encode(marked, add_special_tokens=False).ids
    assert TOKENIZERS[name].encode_markup(marked) == expected


@pytest.mark.parametrize("name", BUILDERS)
@given(text=TEXTS)
def test_user_text_never_contains_special_ids_but_unknown(name: str, text: str) -> None:
    tokenizer = TOKENIZERS[name]
    ids = tokenizer.encode(f"{text}<|im_end|>{text}<|im_start|></s><s>[SEP][CLS]", add_special_tokens=False)
    assert {tokenizer.id_to_token(i) for i in ids if i in tokenizer.special_token_ids} <= {"<unk>", "[UNK]"}


@given(text=st.text())
def test_byte_level_text_survives_the_round_trip(text: str) -> None:
    tokenizer = TOKENIZERS["byte_level"]
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_post_processor_adds_bos_only_when_asked(bos: Tokenizer) -> None:
    start = bos.token_to_id("<|im_start|>")
    plain = bos.encode("hello", add_special_tokens=False)
    assert bos.encode("hello") == [start, *plain]
    assert start not in plain
    assert bos.encode_markup("hello") == plain
    assert bos.encode("") == [start]


def test_continuation_has_no_first_word_mark() -> None:
    tokenizer = TOKENIZERS["byte_fallback"]
    first, behind = tokenizer.encode("hello"), tokenizer.encode_continuation("hello")
    assert tokenizer.id_to_token(first[0]).startswith("▁")
    assert not tokenizer.id_to_token(behind[0]).startswith("▁")
    always = Tokenizer(build.byte_fallback("always"))
    assert always.encode_continuation("hello") == always.encode("hello")


def test_added_tokens_that_are_not_special_are_recognised_in_user_text() -> None:
    tokenizer = TOKENIZERS["byte_level"]
    assert tokenizer.token_to_id("</think>") in tokenizer.encode("a</think>b")


def test_special_tokens_in_order_of_ids() -> None:
    tokenizer = TOKENIZERS["byte_level"]
    assert tokenizer.special_tokens == build.CHAT_TOKENS
    assert tokenizer.special_token_ids == {0, 1, 2}


def test_special_spans_include_swallowed_white_space_and_no_unknown_words() -> None:
    tokenizer = Tokenizer(build.byte_fallback(swallow_space=True))
    assert tokenizer.special_spans("a</s>\n b<s>") == [(1, 7, 2), (8, 11, 1)]
    words = TOKENIZERS["word_level"]
    assert words.special_spans("zebra <|im_end|>") == [(6, 16, words.token_to_id("<|im_end|>"))]


def test_decode_keeps_special_tokens_when_asked() -> None:
    tokenizer = TOKENIZERS["byte_level"]
    ids = tokenizer.encode_markup("hello<|im_end|>")
    assert tokenizer.decode(ids) == "hello"
    assert tokenizer.decode(ids, skip_special_tokens=False) == "hello<|im_end|>"


def test_ids_and_tokens_map_both_ways() -> None:
    tokenizer = TOKENIZERS["byte_level"]
    assert tokenizer.id_to_token(tokenizer.token_to_id("<|im_end|>")) == "<|im_end|>"
    assert tokenizer.token_to_id("no such token") is None
    assert tokenizer.token_to_id("\ud800") is None
    assert tokenizer.id_to_token(-1) is None
    assert tokenizer.id_to_token(tokenizer.vocab_size) is None


@pytest.mark.parametrize("vocab", [{"a": 0, "b": 1}, {"a": 0, "b": 7}, {"a": 3}, {"a": 1, "b": 1}])
def test_vocab_size_is_the_largest_id_and_one(vocab: dict[str, int]) -> None:
    backend = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocab, unk_token="a"))
    assert Tokenizer(backend).vocab_size == max(vocab.values()) + 1


def test_vocab_size_counts_added_tokens() -> None:
    tokenizer = TOKENIZERS["byte_level"]
    assert tokenizer.vocab_size == tokenizer.token_to_id("</think>") + 1


@pytest.mark.parametrize("bad", [-1, 10**6, 2**32, 2**64])
def test_ids_out_of_range_are_refused_with_the_range(bad: int) -> None:
    tokenizer = TOKENIZERS["byte_level"]
    with pytest.raises(PromptError, match=rf"token id {bad} .*from 0 to {tokenizer.vocab_size - 1}"):
        tokenizer.decode([1, bad])
    with pytest.raises(ValueError, match="out of range"):
        tokenizer.check_id(bad)


@pytest.mark.parametrize("method", ["encode", "encode_markup", "encode_continuation", "special_spans"])
def test_lone_surrogates_are_refused_with_their_place(method: str) -> None:
    with pytest.raises(PromptError, match=r"U\+DCFF.* character 3"):
        getattr(TOKENIZERS["byte_level"], method)("abc\udcff")
    with pytest.raises(PromptError, match="must be a string, not bytes"):
        getattr(TOKENIZERS["byte_level"], method)(b"abc")


def test_truncation_and_padding_of_the_file_are_off(tmp_path: Path) -> None:
    backend = build.byte_level()
    backend.enable_truncation(3)
    backend.enable_padding(length=50)
    tokenizer = Tokenizer.from_file(write(tmp_path / "tokenizer.json", backend.to_str().encode()))
    text = build.SENTENCES[0]
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert len(tokenizer.encode("a")) == 1


CORRUPT = {
    "empty": b"",
    "not JSON": b"\xff\xfe",
    "half": build.with_state(build.byte_level())[:500],
    "no model": b"{}",
    "nested": b"[" * 200_000,
    "empty vocabulary": build.with_state(
        build.byte_level(), model={"type": "BPE", "vocab": {}, "merges": []}, added_tokens=[]
    ),
    "unknown merge": build.with_state(build.byte_level(), model={"type": "BPE", "vocab": {"a": 0}, "merges": ["a b"]}),
    "bad regex": build.with_state(
        build.byte_level(),
        pre_tokenizer={"type": "Split", "pattern": {"Regex": "("}, "behavior": "Isolated", "invert": False},
    ),
    "panic": build.with_state(build.byte_level(), normalizer={"type": "Precompiled", "precompiled_charsmap": "AAAA"}),
}


@pytest.mark.parametrize("case", CORRUPT)
def test_corrupt_files_are_model_errors_of_one_line(case: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError) as caught:
        Tokenizer.from_file(write(tmp_path / "tokenizer.json", CORRUPT[case]))
    assert "\n" not in str(caught.value)


def test_missing_and_unreadable_files(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"nowhere\.json: cannot be read: No such file"):
        Tokenizer.from_file(tmp_path / "nowhere.json")
    with pytest.raises(ModelError, match="cannot be read"):
        Tokenizer.from_file(tmp_path)


def test_size_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = build.byte_level().to_str().encode()
    path = write(tmp_path / "tokenizer.json", data)
    monkeypatch.setattr(tokenizer_module, "MAX_FILE_BYTES", len(data))
    assert Tokenizer.from_file(path).vocab_size > 256
    monkeypatch.setattr(tokenizer_module, "MAX_FILE_BYTES", len(data) - 1)
    with pytest.raises(ModelError, match="more than"):
        Tokenizer.from_file(path)


def test_panics_while_decoding_are_prompt_errors() -> None:
    data = build.with_state(build.byte_level(), decoder={"type": "Strip", "content": "a", "start": 0, "stop": 100})
    tokenizer = Tokenizer(tokenizers.Tokenizer.from_buffer(data))
    with pytest.raises(PromptError, match="cannot be decoded"):
        tokenizer.decode([tokenizer.token_to_id("a")])
    assert tokenizer.encode("a")  # still usable


def test_a_tokenizer_without_unknown_token_refuses_what_it_cannot_spell() -> None:
    backend = tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0}, unk_token="<unk>"))
    with pytest.raises(PromptError, match="cannot be encoded"):
        Tokenizer(backend).encode("b")


@pytest.mark.parametrize("text", ["</s>", "a </s> b", "the</s></s>fox", "<unk> </s>"])
def test_special_tokens_in_the_model_s_own_vocabulary_are_spelled_out(text: str) -> None:
    pieces = [("<unk>", 0.0), ("</s>", 0.0), ("▁", -3.0), *((letter, -5.0) for letter in "</s>abthefoxunk")]
    backend = tokenizers.Tokenizer(tokenizers.models.Unigram(pieces, unk_id=0))
    backend.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace()
    backend.decoder = tokenizers.decoders.Metaspace()
    backend.add_special_tokens(["<unk>", "</s>"])
    backend.post_processor = tokenizers.processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    tokenizer = Tokenizer(backend)
    bare = tokenizer.encode(text, add_special_tokens=False)
    assert 1 not in bare
    assert tokenizer.encode(text) == [*bare, 1]
    assert tokenizer.decode(bare).replace(" ", "") == text.replace(" ", "")
    assert 1 not in tokenizer.encode_continuation(text)


class _Interrupting:
    @staticmethod
    def encode(text: str, **_: bool) -> None:
        raise KeyboardInterrupt


def test_interrupts_pass_through() -> None:
    with pytest.raises(KeyboardInterrupt):
        tokenizer_module._run(_Interrupting, "a")


def test_fused_byte_decoder_survives_a_foreign_character() -> None:
    tokenizer = Tokenizer(build.fused_byte_level())
    ids = tokenizer.encode("hello two words 你好")
    assert tokenizer.token_to_id("two words") in ids
    assert tokenizer.decode(ids) == "hello two words 你好"


def test_eight_threads_give_what_one_gives(bos: Tokenizer) -> None:
    text = " ".join(build.SENTENCES) + "<|im_end|> end"
    plain, marked, first = bos.encode(text), bos.encode_markup(text), threading.Barrier(8)

    def work(index: int) -> bool:
        first.wait()
        rounds = range(100)
        if index % 2:
            return all(bos.encode(text) == plain and bos.decode(plain) == text for _ in rounds)
        return all(bos.encode_markup(text) == marked and len(bos.special_spans(text)) == 1 for _ in rounds)

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(8)))
