"""Tokenizers rebuilt from GGUF metadata, against ones built directly and against a plain SentencePiece BPE."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from edgelm.errors import ModelError, UnsupportedModelError
from edgelm_tools.checkpoint.gguf_metadata import Metadata
from edgelm_tools.checkpoint.gguf_tokenizer import tokenizer_json

TEXT = [
    "The meeting was moved to Thursday, 2024-11-05, because the manager isn't travelling.",
    "def area(radius):\n    return 3.14159 * radius ** 2\n\n\n",
    "Привет, мир! 你好，世界。 Ça va? I'LL THEY'VE it's  two  spaces\t\ttabs 1234567890 ١٢٣",
    "emoji 👍🏽 👨‍👩‍👧 ½ ² ① \r\n end   ",
] * 3
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]

LLAMA3_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN2_SPLIT = LLAMA3_SPLIT.replace("{1,3}", "")


def byte_level(use_regex: bool) -> pre_tokenizers.ByteLevel:
    return pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=use_regex)


def split(pattern: str) -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(pattern), "isolated"), byte_level(False)])


ORIGINALS: dict[str, Callable[[], pre_tokenizers.PreTokenizer]] = {
    "gpt-2": lambda: byte_level(True),
    "smollm": lambda: pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), byte_level(True)]),
    "llama-bpe": lambda: split(LLAMA3_SPLIT),
    "dbrx": lambda: split(LLAMA3_SPLIT),
    "qwen2": lambda: split(QWEN2_SPLIT),
}


def trained(pre: str) -> Tokenizer:
    """A byte-level BPE tokenizer of about 400 tokens, built with the library itself."""
    tokenizer = Tokenizer(models.BPE(ignore_merges=pre == "llama-bpe"))
    tokenizer.pre_tokenizer = ORIGINALS[pre]()
    tokenizer.decoder = decoders.ByteLevel()
    if pre == "qwen2":
        tokenizer.normalizer = normalizers.NFC()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        show_progress=False,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator(TEXT, trainer)
    return tokenizer


def as_metadata(tokenizer: Tokenizer, pre: str, /, **changes: Any) -> dict[str, Any]:
    vocab = tokenizer.get_vocab(with_added_tokens=True)
    tokens = sorted(vocab, key=vocab.__getitem__)
    model = json.loads(tokenizer.to_str())["model"]
    values: dict[str, Any] = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": pre,
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": np.array([3 if token in SPECIAL else 1 for token in tokens], np.int32),
        "tokenizer.ggml.merges": [" ".join(merge) for merge in model["merges"]],
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.add_bos_token": False,
    }
    return values | {f"tokenizer.ggml.{name}": value for name, value in changes.items()}


def rebuilt(values: dict[str, Any]) -> Tokenizer:
    document: Tokenizer = Tokenizer.from_str(tokenizer_json(Metadata(values, "model.gguf")).decode())
    return document


PAIRS = {pre: (original := trained(pre), rebuilt(as_metadata(original, pre))) for pre in ORIGINALS}
WORDS = st.sampled_from(
    ["the", " the", "I'LL", "'s", "123", "4567", "\n", "\r\n", "  ", "\t", "é", "e\u0301", *SPECIAL]
)
STRINGS = st.lists(WORDS | st.text(max_size=8), max_size=8).map("".join)


@pytest.mark.parametrize("pre", ORIGINALS)
@given(text=STRINGS)
def test_byte_level_gives_the_ids_of_the_original(pre: str, text: str) -> None:
    original, ours = PAIRS[pre]
    ids = original.encode(text).ids
    assert ours.encode(text).ids == ids
    for skip in (True, False):
        assert ours.decode(ids, skip_special_tokens=skip) == original.decode(ids, skip_special_tokens=skip)


@pytest.mark.parametrize(
    ("pre", "text", "pieces"),
    [
        ("smollm", "in 2024, it's", ["in", "Ġ", "2", "0", "2", "4", ",", "Ġit", "'s"]),
        ("gpt-2", "in 2024, it's", ["in", "Ġ2024", ",", "Ġit", "'s"]),
        ("llama-bpe", "in 20245, IT'S", ["in", "Ġ", "202", "45", ",", "ĠIT", "'S"]),
        ("qwen2", "in 202, IT'S", ["in", "Ġ", "2", "0", "2", ",", "ĠIT", "'S"]),
        ("dbrx", "a  b\n\n c", ["a", "Ġ", "Ġb", "ĊĊ", "Ġc"]),
        ("tekken", "HelloWorld 12/\n", ["Hello", "World", "Ġ", "1", "2", "/Ċ"]),
        ("starcoder", "x12", ["x", "1", "2"]),
    ],
)
def test_how_text_is_split(pre: str, text: str, pieces: list[str]) -> None:
    ours = rebuilt(as_metadata(PAIRS["gpt-2"][0], pre))
    assert [piece for piece, _ in ours.pre_tokenizer.pre_tokenize_str(text)] == pieces


def test_special_tokens_are_special_and_stay_text_where_that_is_asked() -> None:
    _, ours = PAIRS["smollm"]
    assert ours.encode("a<|im_end|>").ids[-1] == 2
    assert ours.decode([2], skip_special_tokens=True) == ""
    ours = rebuilt(as_metadata(PAIRS["smollm"][0], "smollm"))
    ours.encode_special_tokens = True
    ids = ours.encode("a<|im_end|>").ids
    assert 2 not in ids
    assert ours.decode(ids) == "a<|im_end|>"


@pytest.mark.parametrize(
    ("changes", "ends"),
    [
        ({}, ([], [])),
        ({"add_bos_token": True}, ([1], [])),
        ({"add_eos_token": True}, ([], [2])),
        ({"add_bos_token": True, "add_eos_token": True}, ([1], [2])),
    ],
)
def test_bos_and_eos_are_added_as_the_file_says(changes: dict[str, Any], ends: tuple[list[int], list[int]]) -> None:
    original = PAIRS["smollm"][0]
    ours = rebuilt(as_metadata(original, "smollm", **changes))
    plain = original.encode("hello").ids
    assert ours.encode("hello").ids == [*ends[0], *plain, *ends[1]]
    assert ours.encode("hello", add_special_tokens=False).ids == plain
    assert ours.encode("hello", "hello").ids == [*ends[0], *plain, *ends[1]] * 2


def test_llama3_begins_with_bos_where_the_file_does_not_say() -> None:
    values = as_metadata(PAIRS["llama-bpe"][0], "llama-bpe")
    del values["tokenizer.ggml.add_bos_token"]
    assert rebuilt(values).encode("a").ids[0] == 1


def test_an_embedded_tokenizer_is_taken_as_it_is() -> None:
    values = as_metadata(PAIRS["gpt-2"][0], "gpt-2") | {"tokenizer.huggingface.json": '{"version": "1.0"}'}
    assert tokenizer_json(Metadata(values, "x")) == b'{"version": "1.0"}'


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"pre": "no-such"}, UnsupportedModelError, "'no-such'; known are default, gpt-2"),
        ({"pre": ""}, UnsupportedModelError, "known are"),
        ({"model": "rwkv"}, UnsupportedModelError, "'rwkv'; known are gpt2, llama, t5"),
        ({"merges": ["a"]}, ModelError, "the merge 'a'"),
        ({"merges": ["q zz"]}, ModelError, "the merge 'q zz'"),
        ({"tokens": ["a", "a"]}, ModelError, "the token 'a' is there twice"),
        ({"token_type": np.array([1], np.int32)}, ModelError, "1 token types for"),
        ({"token_type": np.array([np.nan], np.float32)}, ModelError, "token_type must be an array of integers"),
        ({"bos_token_id": 10**6, "add_bos_token": True}, ModelError, "bos_token_id is 1000000"),
        ({"merges": 5}, ModelError, "must be a list of strings"),
        ({"add_bos_token": 1}, ModelError, "must be a boolean"),
    ],
)
def test_what_cannot_be_converted(changes: dict[str, Any], error: type[ModelError], message: str) -> None:
    with pytest.raises(error, match=message):
        rebuilt(as_metadata(PAIRS["gpt-2"][0], "gpt-2", **changes))


def test_bos_without_an_id() -> None:
    values = as_metadata(PAIRS["gpt-2"][0], "gpt-2", add_bos_token=True)
    del values["tokenizer.ggml.bos_token_id"]
    with pytest.raises(ModelError, match="no bos_token_id"):
        rebuilt(values)


# SentencePiece. Scores fall with the id, as its BPE trainer writes them; "ab" comes before "bc", "▁a" before both.
PIECES = ["▁a", "ab", "bc", "▁ab", "abc", "▁▁", "cc", "ccc", "▁abc", "<s", "/s", "/s>"]
CHARACTERS = list("▁abc</s>")
SPM_TOKENS = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *PIECES, *CHARACTERS, "\n\n"]
SPM_TYPES = [2, 3, 3, *[6] * 256, *[1] * (len(PIECES) + len(CHARACTERS)), 4]
SPM_SCORES = [0.0] * 259 + [-float(i) for i in range(len(PIECES) + len(CHARACTERS))] + [0.0]


def spm_metadata(**changes: Any) -> dict[str, Any]:
    values: dict[str, Any] = {
        "model": "llama",
        "tokens": SPM_TOKENS,
        "scores": np.array(SPM_SCORES, np.float32),
        "token_type": np.array(SPM_TYPES, np.int32),
        "add_bos_token": False,
    }
    return {f"tokenizer.ggml.{name}": value for name, value in (values | changes).items() if value is not None}


def sentencepiece_bpe(text: str, prefix: bool) -> list[str]:
    """The algorithm as published: join the neighbours whose joint piece has the highest score, leftmost first."""
    symbols = list(("▁" if prefix and text else "") + text.replace(" ", "▁"))
    scores = {piece: score for piece, score, kind in zip(SPM_TOKENS, SPM_SCORES, SPM_TYPES, strict=True) if kind == 1}
    while True:
        joint = [(-scores[a + b], i) for i, (a, b) in enumerate(pairwise(symbols)) if a + b in scores]
        if not joint:
            break
        _, i = min(joint)
        symbols[i : i + 2] = [symbols[i] + symbols[i + 1]]
    return [
        piece
        for symbol in symbols
        for piece in ([symbol] if symbol in scores else [f"<0x{byte:02X}>" for byte in symbol.encode()])
    ]


@pytest.mark.parametrize("prefix", [True, False])
@given(text=st.text(alphabet="abc <>/s€🙂x", max_size=14).filter(lambda text: "<s>" not in text and "</s>" not in text))
def test_merges_from_scores_are_those_of_sentencepiece(prefix: bool, text: str) -> None:
    ours = rebuilt(spm_metadata(add_space_prefix=prefix))
    encoded = ours.encode(text)
    assert encoded.tokens == sentencepiece_bpe(text, prefix)
    assert ours.decode(encoded.ids) == text


def test_of_two_ways_to_one_piece_the_longer_left_part_comes_first() -> None:
    merges = json.loads(tokenizer_json(Metadata(spm_metadata(), "x")))["model"]["merges"]
    assert [merge for merge in merges if "".join(merge) == "▁abc"] == [["▁ab", "c"], ["▁a", "bc"], ["▁", "abc"]]


class CountedCuts(str):
    """A token that counts the parts that are cut off it."""

    count = 0

    def __getitem__(self, place: Any) -> str:
        CountedCuts.count += 1
        return super().__getitem__(place)


def test_a_long_token_is_cut_only_into_parts_as_long_as_tokens() -> None:
    tokens = ["a", "bb", CountedCuts("a" * 1000 + "bb"), CountedCuts("a" * 1000), "ccc"]
    values = spm_metadata(tokens=tokens, token_type=None, scores=np.zeros(5))
    assert json.loads(tokenizer_json(Metadata(values, "x")))["model"]["merges"] == [["a" * 1000, "bb"]]
    assert CountedCuts.count <= 10


def test_control_tokens_are_never_put_together_from_text() -> None:
    ours = rebuilt(spm_metadata())
    assert ours.encode("</s>").ids == [2]
    ours.encode_special_tokens = True
    assert ours.encode("</s>").tokens == ["▁", "<", "/s>"]


def test_user_defined_tokens_are_found_first_but_are_not_special() -> None:
    ours = rebuilt(spm_metadata())
    ids = ours.encode("a\n\nb").ids
    assert len(SPM_TOKENS) - 1 in ids
    assert ours.decode(ids, skip_special_tokens=True).startswith("a\n\n")


def test_sentencepiece_begins_with_bos_unless_the_file_says_no() -> None:
    assert rebuilt(spm_metadata(add_bos_token=None)).encode("a").tokens == ["<s>", "▁a"]


def test_merges_that_the_file_lists_come_before_scores() -> None:
    ours = rebuilt(spm_metadata(merges=["b c", "a bc"], add_space_prefix=False, scores=None))
    assert ours.encode("abab abc").tokens == ["a", "b", "a", "b", "▁", "abc"]


def test_without_scores_and_merges() -> None:
    with pytest.raises(UnsupportedModelError, match="neither scores nor merges"):
        rebuilt(spm_metadata(scores=None))
    with pytest.raises(ModelError, match="1 scores for"):
        rebuilt(spm_metadata(scores=np.zeros(1, np.float32)))


def test_phi3_tokens_swallow_the_space_behind_them() -> None:
    values = spm_metadata() | {"general.architecture": "phi3"}
    added = json.loads(tokenizer_json(Metadata(values, "x")))["added_tokens"]
    assert {token["content"]: token["rstrip"] for token in added} == {
        "<unk>": False,
        "<s>": False,
        "</s>": True,
        "\n\n": False,
    }


UNIGRAM = [
    ("<pad>", 0.0),
    ("</s>", 0.0),
    ("<unk>", 0.0),
    ("▁", -2.0),
    ("▁a", -2.5),
    ("a", -3.0),
    ("b", -3.1),
    ("ab", -5),
]


@given(text=st.text(alphabet="ab \n?", max_size=12))
def test_unigram(text: str) -> None:
    original = Tokenizer(models.Unigram([(piece, float(score)) for piece, score in UNIGRAM], unk_id=2))
    original.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()])
    original.decoder = decoders.Metaspace()
    ours = rebuilt(
        {
            "tokenizer.ggml.model": "t5",
            "tokenizer.ggml.tokens": [piece for piece, _ in UNIGRAM],
            "tokenizer.ggml.scores": np.array([score for _, score in UNIGRAM], np.float32),
            "tokenizer.ggml.token_type": np.array([3, 3, 2, 1, 1, 1, 1, 1], np.int32),
        }
    )
    ids = original.encode(text).ids
    assert ours.encode(text).ids == [*ids, 1]
    assert ours.decode(ids) == original.decode(ids, skip_special_tokens=False).replace("<unk>", "")


def test_unigram_that_keeps_spaces_is_refused() -> None:
    values = spm_metadata(model="t5", remove_extra_whitespaces=False)
    with pytest.raises(UnsupportedModelError, match="extra spaces"):
        rebuilt(values)
