"""Texts and pairs with special tokens, offsets, truncation and windows; what a user writes stays text."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from support import tokenizers as build
from tokenizers import normalizers, processors

from edgelm.errors import ConfigError, PromptError
from edgelm.text.chat_template import ChatTemplate
from edgelm.text.encoding import Encoding, TextEncoder, Truncation
from edgelm.text.prompt import encode_chat
from edgelm.text.tokenizer import Tokenizer


def unigram_with_eos() -> tokenizers.Tokenizer:
    """As T5's: "</s>" is a piece of the model's own vocabulary and ends every text."""
    made = build.unigram(with_bytes=False)
    made.post_processor = processors.TemplateProcessing(
        single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", made.token_to_id("</s>"))]
    )
    return made


def stripping_word_piece() -> tokenizers.Tokenizer:
    made = build.word_piece()
    made.normalizer = normalizers.Sequence([normalizers.NFD(), normalizers.StripAccents(), normalizers.Lowercase()])
    return made


BUILT = {"word_piece": build.word_piece(), "stripping": stripping_word_piece(), "unigram": unigram_with_eos()}
SAVED = {name: made.to_str() for name, made in BUILT.items()}
ENCODERS = {name: TextEncoder(Tokenizer(tokenizers.Tokenizer.from_str(saved))) for name, saved in SAVED.items()}
TEXTS = st.text(max_size=50) | st.sampled_from(build.SENTENCES)


def reference(name: str, **truncation: Any) -> tokenizers.Tokenizer:
    made = tokenizers.Tokenizer.from_str(SAVED[name])
    if truncation:
        made.enable_truncation(**truncation)
    return made


def plain(encoding: Any) -> tuple[Any, ...]:
    return (
        encoding.ids,
        encoding.type_ids,
        encoding.offsets,
        encoding.word_ids,
        encoding.sequence_ids,
        encoding.special_tokens_mask,
    )


@pytest.mark.parametrize("name", ENCODERS)
@given(first=TEXTS, second=st.none() | TEXTS)
def test_is_what_the_library_gives(name: str, first: str, second: str | None) -> None:
    assert plain(ENCODERS[name].encode(first, second)) == plain(reference(name).encode(first, second))


def windows_or_none(name: str, first: str, second: str, truncation: Truncation) -> list[Encoding] | None:
    """None where the texts leave no room for windows, which the library would end in a panic."""
    try:
        return ENCODERS[name].encode(first, second, truncation=truncation).windows
    except PromptError:
        return None


@pytest.mark.parametrize("name", ENCODERS)
@given(first=TEXTS, second=TEXTS, length=st.integers(6, 20), stride=st.integers(0, 2))
def test_windows_are_the_library_s(name: str, first: str, second: str, length: int, stride: int) -> None:
    truncation = Truncation(length, stride=stride)
    windows = windows_or_none(name, first, second, truncation)
    if windows is None:
        return
    expected = reference(name, max_length=length, stride=stride).encode(first, second)
    assert [plain(window) for window in windows] == [plain(expected), *map(plain, expected.overflowing)]
    assert all(len(window) <= length for window in windows)


@given(first=TEXTS, second=TEXTS, length=st.integers(6, 20), strategy=st.sampled_from(["only_first", "only_second"]))
def test_windows_of_one_text_are_the_library_s(first: str, second: str, length: int, strategy: Any) -> None:
    windows = windows_or_none("stripping", first, second, Truncation(length, strategy, 1))
    if windows is None:
        return
    expected = reference("stripping", max_length=length, strategy=strategy, stride=1).encode(first, second)
    assert [plain(window) for window in windows] == [plain(expected), *map(plain, expected.overflowing)]


def test_byte_level_offsets_are_trimmed_once() -> None:
    made = build.byte_level()
    made.post_processor = processors.RobertaProcessing(("<|im_end|>", 2), ("<|im_start|>", 1), trim_offsets=True)
    expected = tokenizers.Tokenizer.from_str(made.to_str())
    expected.enable_truncation(8, stride=2)
    text = "hello   world  two  spaces the fox"
    encoder = TextEncoder(Tokenizer(made))
    windows = encoder.encode(text, truncation=Truncation(8, stride=2)).windows
    one = expected.encode(text)
    assert len(windows) > 1
    assert [plain(window) for window in windows] == [plain(one), *map(plain, one.overflowing)]


def test_a_passage_in_windows_keeps_its_question_and_overlaps() -> None:
    encoder = ENCODERS["word_piece"]
    passage = " ".join(build.SENTENCES[:3])
    whole = encoder.encode("the dog", passage)
    windows = encoder.encode("the dog", passage, truncation=Truncation(24, "only_second", stride=5)).windows
    assert len(windows) > 2
    for window in windows:
        question = [i for i, sequence in zip(window.ids, window.sequence_ids, strict=True) if sequence == 0]
        assert question == encoder.tokenizer.encode("the dog", add_special_tokens=False)
    inner = [
        [i for i, sequence in zip(window.ids, window.sequence_ids, strict=True) if sequence == 1] for window in windows
    ]
    joined = inner[0] + [token for ids in inner[1:] for token in ids[5:]]
    assert joined == [i for i, sequence in zip(whole.ids, whole.sequence_ids, strict=True) if sequence == 1]


def test_offsets_count_characters_of_the_original() -> None:
    text = "🌍 Größe 𝒜 the dog"
    encoding = ENCODERS["stripping"].encode(text)
    pieces = [text[start:end] for start, end in encoding.offsets[1:-1]]
    assert "".join(pieces) == text.replace(" ", "")
    assert encoding.offsets[0] == encoding.offsets[-1] == (0, 0)


@pytest.mark.parametrize("name", ENCODERS)
@given(text=TEXTS)
def test_user_text_never_becomes_a_special_token(name: str, text: str) -> None:
    encoder = ENCODERS[name]
    written = f"{text}</s>[SEP] {text} [CLS]</s> [PAD]"
    encoding = encoder.encode(written, written)
    inner = {
        token
        for token, special in zip(encoding.tokens, encoding.special_tokens_mask, strict=True)
        if not special and token in encoder.tokenizer.special_tokens
    }
    assert inner <= {"<unk>", "[UNK]"}
    assert encoder.encode(written).ids == encoder.tokenizer.encode(written)


def normalizing_unigram() -> tokenizers.Tokenizer:
    """As in XLM-R: the normalizer writes full-width characters as plain ones, and ``</s>`` is in the vocabulary."""
    pieces = [("<unk>", 0.0), ("</s>", 0.0), ("▁", -2.0), *((character, -3.0) for character in "abs<>/")]
    made = tokenizers.Tokenizer(tokenizers.models.Unigram(pieces, 0))
    made.normalizer = tokenizers.normalizers.NFKC()
    made.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace()
    made.decoder = tokenizers.decoders.Metaspace()
    made.add_special_tokens(["<unk>", "</s>"])
    return made


@pytest.mark.parametrize("written", ["</s>", "＜/s＞", "</ｓ>", "﹤/s﹥"])
def test_a_special_token_that_the_normalizer_would_write_stays_text(written: str) -> None:
    tokenizer = Tokenizer(normalizing_unigram())
    end = tokenizer.token_to_id("</s>")
    text = f"a {written} b"
    plain = tokenizer.encode("a </s> b")
    assert end not in plain
    assert tokenizer.encode(text) == tokenizer.encode_continuation(text) == plain
    encoder = TextEncoder(tokenizer)
    assert encoder.encode(text).ids == plain
    assert encoder.encode("a b", text).ids == [*tokenizer.encode("a b"), *plain]
    template = ChatTemplate("{{ messages[0].content }}</s>")
    assert encode_chat(tokenizer, template, [{"role": "user", "content": text}]) == [*plain, end]


def test_unknown_characters_are_not_taken_for_a_spelled_token() -> None:
    tokenizer = Tokenizer(normalizing_unigram())
    text = "a 你好 b"
    assert tokenizer.spelled_out(text) is None
    assert TextEncoder(tokenizer).encode(text).ids == normalizing_unigram().encode(text).ids


def test_spelled_special_tokens_have_offsets_and_are_cut_like_others() -> None:
    encoder, text = ENCODERS["unigram"], "the dog </s> the fox"
    encoding = encoder.encode(text)
    assert "".join(text[start:end] for start, end in encoding.offsets).replace(" ", "") == text.replace(" ", "")
    cut = encoder.encode(text, truncation=Truncation(5))
    assert cut.ids == [*encoding.ids[:4], encoding.ids[-1]]


def test_markup_recognises_special_tokens() -> None:
    encoder = ENCODERS["word_piece"]
    encoding = encoder.encode("the [SEP] dog", markup=True)
    assert encoding.ids == reference("word_piece").encode("the [SEP] dog").ids
    assert encoding.ids.count(encoder.tokenizer.token_to_id("[SEP]")) == 2


def test_a_batch_is_its_texts_one_by_one() -> None:
    encoder = ENCODERS["word_piece"]
    texts = [*build.SENTENCES, ("the dog", "the fox"), ""]
    batch = encoder.encode_batch(texts)
    singles = [encoder.encode(*text) if isinstance(text, tuple) else encoder.encode(text) for text in texts]
    assert [plain(one) for one in batch] == [plain(one) for one in singles]
    assert [one.ids for one in encoder.encode_batch(texts, offsets=False)] == [one.ids for one in batch]
    assert encoder.encode_batch([]) == []
    assert len(encoder.encode_batch(text for text in texts)) == len(texts)  # type: ignore[arg-type]


def test_many_threads_with_different_truncations() -> None:
    encoder = TextEncoder(Tokenizer(tokenizers.Tokenizer.from_str(SAVED["word_piece"])))
    text = " ".join(build.SENTENCES)

    def length(limit: int) -> int:
        return len(encoder.encode(text, truncation=Truncation(limit)))

    limits = [*range(3, 40)] * 5
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(length, limits)) == limits


@pytest.mark.parametrize("bad", ["\ud800", 3, None, ("a", "b", "c"), (), ("a",), ("a", "\udfff"), b"a"])
def test_bad_texts_are_named(bad: Any) -> None:
    with pytest.raises(PromptError, match="text 1: "):
        ENCODERS["word_piece"].encode_batch(["the dog", bad])


@pytest.mark.parametrize(
    ("truncation", "message"),
    [
        ({"max_length": 0}, "max_length must be at least 1, not 0"),
        ({"max_length": 8, "stride": -1}, "stride must be"),
        ({"max_length": True}, "max_length must be"),
        ({"max_length": 8, "strategy": "only_third"}, "strategy must be one of longest_first, only_first, only_second"),
        ({"max_length": 2}, "max_length must be above 2, for 2 special tokens, not 2"),
        ({"max_length": 6, "stride": 4}, "for 2 special tokens and a stride of 4, not 6"),
    ],
)
def test_a_truncation_that_cannot_be(truncation: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ENCODERS["word_piece"].encode("the dog", truncation=Truncation(**truncation))


def test_a_question_that_leaves_no_room_for_windows_is_refused() -> None:
    question, passage = "dog " * 10, build.SENTENCES[0]
    with pytest.raises(PromptError, match=r"text 0: 10 \+ \d+ tokens leave no room for windows of 17 tokens"):
        ENCODERS["word_piece"].encode(question, passage, truncation=Truncation(17, "only_second", 4))


def test_what_cannot_be_cut_is_refused() -> None:
    encoder = ENCODERS["word_piece"]
    with pytest.raises(PromptError, match="Second sequence not provided"):
        encoder.encode(build.SENTENCES[0], truncation=Truncation(6, "only_second"))
    with pytest.raises(PromptError, match="too short"):
        encoder.encode("dog", build.SENTENCES[0], truncation=Truncation(8, "only_first"))
