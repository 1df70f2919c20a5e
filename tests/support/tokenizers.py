"""Small tokenizers of every kind that language models use, trained in memory. Each builder returns a fresh one."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

SENTENCES = (
    "The quick brown fox jumps over the lazy dog.",
    "A tokenizer turns text into numbers, and numbers into text.",
    "She sells sea shells by the sea shore; the shells she sells are sea shells.",
    "user assistant system hello world  two  spaces\nand a new line",
    "Größe naïve façade 你好世界 こんにちは 🌍🎉 👩‍👩‍👧",
)
CHAT_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
LLAMA_TOKENS = ("<unk>", "<s>", "</s>")


def byte_level(special_tokens: Sequence[str] = CHAT_TOKENS) -> Tokenizer:
    """Byte-level BPE as in GPT-2, Qwen and SmolLM, with one added token that is not special: ``</think>``."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        SENTENCES,
        trainers.BpeTrainer(
            vocab_size=400,
            special_tokens=list(special_tokens),
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    tokenizer.add_tokens([AddedToken("</think>", normalized=False)])
    return tokenizer


def byte_level_with_bos() -> Tokenizer:
    """``byte_level`` whose post-processor puts ``<|im_start|>`` before every text."""
    tokenizer = byte_level()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<|im_start|> $A", special_tokens=[("<|im_start|>", tokenizer.token_to_id("<|im_start|>"))]
    )
    return tokenizer


def fused_byte_level() -> Tokenizer:
    """``byte_level`` with the decoder that transformers gives to a tokenizer read from GGUF."""
    tokenizer = byte_level()
    tokenizer.add_tokens([AddedToken("two words", normalized=False)])
    tokenizer.decoder = decoders.Sequence(
        [decoders.ByteFallback(), decoders.Fuse(), decoders.Replace("▁", " "), decoders.ByteLevel()]
    )
    return tokenizer


def byte_fallback(
    prepend_scheme: str = "first", *, swallow_space: bool = False, special_tokens: Sequence[str] = LLAMA_TOKENS
) -> Tokenizer:
    """BPE over "▁" words with byte fallback, as in Llama 2 and Mistral.

    ``prepend_scheme``: "always" or "first" (a Metaspace pre-tokenizer), or "normalizer" (the older form).
    ``swallow_space``: the special tokens take the white space behind them, as in Phi-3.
    """
    trained = Tokenizer(models.BPE(unk_token="<unk>"))
    trained.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    bytes_ = [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = trainers.BpeTrainer(vocab_size=600, special_tokens=[*special_tokens, *bytes_], show_progress=False)
    trained.train_from_iterator(SENTENCES[:4], trainer)
    state = json.loads(trained.to_str())
    state["model"] |= {"byte_fallback": True, "fuse_unk": True}
    state["added_tokens"] = [
        token | {"rstrip": swallow_space} for token in state["added_tokens"] if token["content"] in special_tokens
    ]
    tokenizer = Tokenizer.from_str(json.dumps(state))
    if prepend_scheme == "normalizer":
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([])
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=prepend_scheme, split=False)
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return tokenizer


def unigram(*, with_bytes: bool = True) -> Tokenizer:
    """Unigram over "▁" words, as in T5 and Marian, with or without byte fallback."""
    bytes_ = [f"<0x{byte:02X}>" for byte in range(256)] if with_bytes else []
    trained = Tokenizer(models.Unigram())
    trained.pre_tokenizer = pre_tokenizers.Metaspace()
    trained.train_from_iterator(
        SENTENCES,
        trainers.UnigramTrainer(vocab_size=200, special_tokens=["<unk>"], unk_token="<unk>", show_progress=False),
    )
    pieces: list[tuple[str, float]] = [
        (piece, score) for piece, score in json.loads(trained.to_str())["model"]["vocab"]
    ]
    pieces += [(byte, -20.0) for byte in bytes_]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=0, byte_fallback=with_bytes))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    metaspace = decoders.Metaspace()
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), metaspace]) if with_bytes else metaspace
    tokenizer.add_special_tokens(["<unk>", "</s>"])
    return tokenizer


def word_level() -> Tokenizer:
    """One id a word, no decoder: words are joined by spaces. The unknown word is ``<unk>``."""
    words = ["<unk>", "<|im_end|>", *sorted({word for sentence in SENTENCES for word in sentence.split()})]
    tokenizer = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.add_special_tokens(["<unk>", "<|im_end|>"])
    return tokenizer


def word_piece() -> Tokenizer:
    """WordPiece as in BERT, with ``[CLS]`` and ``[SEP]`` put around a text."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece(cleanup=True)
    trainer = trainers.WordPieceTrainer(
        vocab_size=200, special_tokens=["[PAD]", "[UNK]", "[CLS]", "[SEP]"], show_progress=False
    )
    tokenizer.train_from_iterator(SENTENCES, trainer)
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    return tokenizer


def with_state(tokenizer: Tokenizer, **parts: Any) -> bytes:
    """The tokenizer's file with some of its top-level fields replaced."""
    return json.dumps(json.loads(tokenizer.to_str()) | parts).encode()
