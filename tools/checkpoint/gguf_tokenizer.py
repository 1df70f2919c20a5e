"""GGUF's tokenizer metadata as the ``tokenizer.json`` of the ``tokenizers`` library that gives the same ids.

Sources: the ``tokenizers`` serialization, llama.cpp's vocabulary loader, transformers' converters of slow tokenizers.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable
from typing import Any

from edgelm.errors import ModelError, UnsupportedModelError
from edgelm_tools.checkpoint.gguf_metadata import Metadata
from edgelm_tools.checkpoint.gguf_pretokenizers import PRE_TOKENIZATIONS

NORMAL, UNKNOWN, CONTROL, USER_DEFINED = 1, 2, 3, 4
SPACE = "▁"
# Phi-3's own tokens swallow the space behind them; GGUF does not say so, llama.cpp knows it too.
_PHI3_PLAIN = frozenset({"<unk>", "<s>", "<|endoftext|>"})


def tokenizer_json(metadata: Metadata) -> bytes:
    """The bytes of a ``tokenizer.json``.

    Raises:
        UnsupportedModelError: the kind of tokenizer or pre-tokenizer is unknown; lists those that are known.
        ModelError: the metadata is incomplete or contradicts itself.
    """
    if "tokenizer.huggingface.json" in metadata:
        return metadata.text("tokenizer.huggingface.json").encode("utf-8")
    kind = metadata.text("tokenizer.ggml.model")
    if kind not in _BUILDERS:
        raise UnsupportedModelError(
            f"{metadata.source}: tokenizer.ggml.model is {kind!r:.40}; known are {', '.join(_BUILDERS)}"
        )
    vocabulary = _Vocabulary(metadata)
    document = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": vocabulary.added_tokens(),
        **_BUILDERS[kind](metadata, vocabulary),
    }
    return json.dumps(document, ensure_ascii=False).encode("utf-8")


class _Vocabulary:
    """Tokens by id, with their types; every token is there once."""

    def __init__(self, metadata: Metadata) -> None:
        self._metadata = metadata
        self.tokens = metadata.strings("tokenizer.ggml.tokens")
        self.ids = {token: token_id for token_id, token in enumerate(self.tokens)}
        if len(self.ids) != len(self.tokens):
            repeated = next(token for token_id, token in enumerate(self.tokens) if self.ids[token] != token_id)
            raise ModelError(f"{metadata.source}: the token {repeated!r:.80} is there twice")
        self.types = self._read_types()
        if len(self.types) != len(self.tokens):
            raise ModelError(f"{metadata.source}: {len(self.types)} token types for {len(self.tokens)} tokens")

    def _read_types(self) -> list[int]:
        if "tokenizer.ggml.token_type" in self._metadata:
            return [int(kind) for kind in self._metadata.integers("tokenizer.ggml.token_type")]
        special = {self.special_id(role) for role in ("bos", "eos", "unknown")}
        return [CONTROL if token_id in special else NORMAL for token_id in range(len(self.tokens))]

    def special_id(self, role: str, default: int | None = None) -> int | None:
        """The id of ``bos``, ``eos`` or ``unknown``; None if the file and the kind of tokenizer name none."""
        key = f"tokenizer.ggml.{role}_token_id"
        token_id = self._metadata.integer(key) if key in self._metadata else default
        if token_id is not None and token_id >= len(self.tokens):
            raise ModelError(f"{self._metadata.source}: {key} is {token_id}, there are {len(self.tokens)} tokens")
        return token_id

    def added_tokens(self) -> list[dict[str, Any]]:
        """Tokens that are looked for in the text before anything else, control tokens as special ones."""
        phi3 = self._metadata.text("general.architecture", "") == "phi3" and "tokenizer.ggml.scores" in self._metadata
        return [
            {
                "id": token_id,
                "content": token,
                "single_word": False,
                "lstrip": False,
                "rstrip": phi3 and kind == CONTROL and token not in _PHI3_PLAIN,
                "normalized": False,
                "special": kind != USER_DEFINED,
            }
            for token_id, (token, kind) in enumerate(zip(self.tokens, self.types, strict=True))
            if token and kind in (UNKNOWN, CONTROL, USER_DEFINED)
        ]

    def scores(self) -> list[float]:
        """One score a token."""
        if "tokenizer.ggml.scores" not in self._metadata:
            raise UnsupportedModelError(f"{self._metadata.source}: the tokenizer has neither scores nor merges")
        scores = [float(score) for score in self._metadata.numbers("tokenizer.ggml.scores")]
        if len(scores) != len(self.tokens):
            raise ModelError(f"{self._metadata.source}: {len(scores)} scores for {len(self.tokens)} tokens")
        return scores

    def merges(self) -> list[tuple[str, str]]:
        """The merges that the file lists, in their order."""
        pairs: list[tuple[str, str]] = []
        for merge in self._metadata.strings("tokenizer.ggml.merges"):
            left, _, right = merge.partition(" ")
            if left not in self.ids or right not in self.ids or left + right not in self.ids:
                raise ModelError(
                    f"{self._metadata.source}: the merge {merge!r:.80} is not one of two tokens into a third"
                )
            pairs.append((left, right))
        return pairs


def _byte_level_bpe(metadata: Metadata, vocabulary: _Vocabulary) -> dict[str, Any]:
    """``gpt2``: byte-level BPE; how the text is split first depends on the model and is looked up by its name."""
    name = metadata.text("tokenizer.ggml.pre", "")
    if name not in PRE_TOKENIZATIONS:
        known = ", ".join(PRE_TOKENIZATIONS)
        raise UnsupportedModelError(f"{metadata.source}: tokenizer.ggml.pre is {name!r:.40}; known are {known}")
    split = PRE_TOKENIZATIONS[name]
    byte_level = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}
    return {
        "normalizer": split.normalizer,
        "pre_tokenizer": split.pre_tokenizer(),
        "post_processor": _post_processor(metadata, vocabulary, add_bos=split.add_bos),
        "decoder": byte_level,
        "model": _bpe(vocabulary, vocabulary.merges(), ignore_merges=split.ignore_merges),
    }


def _sentencepiece_bpe(metadata: Metadata, vocabulary: _Vocabulary) -> dict[str, Any]:
    """``llama``: SentencePiece BPE over characters, with spaces as U+2581 and unknown characters as bytes."""
    listed = "tokenizer.ggml.merges" in metadata
    merges = vocabulary.merges() if listed else merges_from_scores(vocabulary)
    prefix = metadata.flag("tokenizer.ggml.add_space_prefix", True)
    normalizers = [{"type": "Replace", "pattern": {"String": " "}, "content": SPACE}]
    decoders: list[dict[str, Any]] = [
        {"type": "Replace", "pattern": {"String": SPACE}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
    ]
    if prefix:
        normalizers.insert(0, {"type": "Prepend", "prepend": SPACE})
        decoders.append({"type": "Strip", "content": " ", "start": 1, "stop": 0})
    unknown = vocabulary.special_id("unknown", 0)
    return {
        "normalizer": {"type": "Sequence", "normalizers": normalizers},
        "pre_tokenizer": None,
        "post_processor": _post_processor(metadata, vocabulary, add_bos=True, bos=1, eos=2),
        "decoder": {"type": "Sequence", "decoders": decoders},
        "model": _bpe(vocabulary, merges, unk_token=vocabulary.tokens[unknown or 0], byte_fallback=True),
    }


def _unigram(metadata: Metadata, vocabulary: _Vocabulary) -> dict[str, Any]:
    """``t5``: SentencePiece unigram; the pieces' scores are the model."""
    if not metadata.flag("tokenizer.ggml.remove_extra_whitespaces", True):
        raise UnsupportedModelError(f"{metadata.source}: a unigram tokenizer that keeps extra spaces")
    charsmap = "tokenizer.ggml.precompiled_charsmap"
    normalizer = None
    if charsmap in metadata:
        encoded = base64.b64encode(metadata.numbers(charsmap).tobytes()).decode("ascii")
        normalizer = {"type": "Precompiled", "precompiled_charsmap": encoded}
    prefix = metadata.flag("tokenizer.ggml.add_space_prefix", True)
    scheme = "always" if prefix else "never"
    metaspace = {"type": "Metaspace", "replacement": SPACE, "prepend_scheme": scheme, "split": True}
    return {
        "normalizer": normalizer,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "WhitespaceSplit"}, metaspace]},
        "post_processor": _post_processor(metadata, vocabulary, add_bos=False, add_eos=True, eos=1),
        "decoder": metaspace,
        "model": {
            "type": "Unigram",
            "unk_id": vocabulary.special_id("unknown", 2),
            "vocab": list(zip(vocabulary.tokens, vocabulary.scores(), strict=True)),
            "byte_fallback": False,
        },
    }


_BUILDERS = {"gpt2": _byte_level_bpe, "llama": _sentencepiece_bpe, "t5": _unigram}


def merges_from_scores(vocabulary: _Vocabulary) -> list[tuple[str, str]]:
    """The merges that a SentencePiece BPE vocabulary implies: a piece with a higher score is put together earlier.

    Of several ways to split one piece the longest left part comes first: transformers' order. Only normal pieces
    take part; control, byte and user-defined pieces are never put together from text.
    """
    scores = vocabulary.scores()
    normal = {token: token_id for token, token_id in vocabulary.ids.items() if vocabulary.types[token_id] == NORMAL}
    # A long token costs a copy of itself for each place where it is cut: only where both parts may be tokens.
    lengths = {len(token) for token in normal}
    ranked = [
        (-scores[token_id], -cut, token[:cut], token[cut:])
        for token, token_id in normal.items()
        for cut in range(1, len(token))
        if cut in lengths and len(token) - cut in lengths and token[:cut] in normal and token[cut:] in normal
    ]
    ranked.sort(key=lambda merge: merge[:2])
    return [(left, right) for _, _, left, right in ranked]


def _bpe(
    vocabulary: _Vocabulary,
    merges: Iterable[tuple[str, str]],
    *,
    unk_token: str | None = None,
    byte_fallback: bool = False,
    ignore_merges: bool = False,
) -> dict[str, Any]:
    return {
        "type": "BPE",
        "dropout": None,
        "unk_token": unk_token,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": byte_fallback,
        "byte_fallback": byte_fallback,
        "ignore_merges": ignore_merges,
        "vocab": vocabulary.ids,
        "merges": list(merges),
    }


def _post_processor(
    metadata: Metadata,
    vocabulary: _Vocabulary,
    *,
    add_bos: bool,
    add_eos: bool = False,
    bos: int | None = None,
    eos: int | None = None,
) -> dict[str, Any] | None:
    """Adds BOS and EOS as the file says; the arguments are what holds where it says nothing."""
    before = _added(metadata, vocabulary, "bos", add_bos, bos)
    after = _added(metadata, vocabulary, "eos", add_eos, eos)
    if not before and not after:
        return None

    def around(sequence: str, type_id: int) -> list[dict[str, Any]]:
        def special(tokens: list[str]) -> list[dict[str, Any]]:
            return [{"SpecialToken": {"id": token, "type_id": type_id}} for token in tokens]

        return [*special(before), {"Sequence": {"id": sequence, "type_id": type_id}}, *special(after)]

    used = {token: {"id": token, "ids": [vocabulary.ids[token]], "tokens": [token]} for token in [*before, *after]}
    return {
        "type": "TemplateProcessing",
        "single": around("A", 0),
        "pair": around("A", 0) + around("B", 1),
        "special_tokens": used,
    }


def _added(metadata: Metadata, vocabulary: _Vocabulary, role: str, add: bool, default_id: int | None) -> list[str]:
    if not metadata.flag(f"tokenizer.ggml.add_{role}_token", add):
        return []
    token_id = vocabulary.special_id(role, default_id)
    if token_id is None:
        raise ModelError(f"{metadata.source}: add_{role}_token is set, but there is no {role}_token_id")
    return [vocabulary.tokens[token_id]]
