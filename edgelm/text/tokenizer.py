"""Text to token ids and back: one ``tokenizer.json``, safe to use from many threads.

``tokenizers`` recognises special tokens in a text or not by a switch on the tokenizer. Flipping it would race, so
there are two tokenizers over one shared model: one for what users write, one for what a chat template wrote. The
second costs its added tokens only; vocabulary and merges exist once.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Self

import tokenizers

from edgelm.errors import ModelError, PromptError
from edgelm.text.library import checked_text, library_errors, sibling
from edgelm.text.pipeline import (
    build_part,
    decoder_steps,
    decodes_locally,
    part_state,
    without_first_word_mark,
    without_fuse_before_bytes,
)

MAX_FILE_BYTES = 256 << 20


class Tokenizer:
    """A model's tokenizer.

    Args:
        backend: the tokenizer as ``tokenizers`` loads it. It is taken over: its settings are changed, and nobody else
            may change them afterwards.

    Attributes:
        token_count: how many tokens there are, added ones included.
        special_tokens: texts of the special tokens, in order of their ids.
        special_token_ids: their ids.
        streams: whether decoded text is final as tokens arrive; False for decoders that look at the whole text.
        has_byte_fallback: whether runs of ``<0xNN>`` tokens are decoded together.

    Raises:
        ModelError: the tokenizer contradicts itself.
    """

    def __init__(self, backend: tokenizers.Tokenizer) -> None:
        with library_errors(ModelError, "the tokenizer cannot be set up"):
            backend.no_truncation()
            backend.no_padding()
            backend.encode_special_tokens = True
            steps = decoder_steps(part_state(backend, "decoder"))
            repaired = without_fuse_before_bytes(steps)
            if repaired is not None:
                backend.decoder = build_part("decoder", {"type": "Sequence", "decoders": repaired})
            steps = steps if repaired is None else repaired
            self._plain = backend
            self._markup = sibling(backend)
            self._continuation = _continuation(backend)
            self.token_count: int = backend.get_vocab_size(with_added_tokens=True)
            if not self.token_count:
                raise ModelError("the tokenizer has an empty vocabulary")
            added = sorted(backend.get_added_tokens_decoder().items())
        special = [(token_id, token) for token_id, token in added if token.special]
        self.streams = decodes_locally(steps)
        self.has_byte_fallback = any(step.get("type") == "ByteFallback" for step in steps)
        self.special_tokens: tuple[str, ...] = tuple(token.content for _, token in special)
        self.special_token_ids: frozenset[int] = frozenset(token_id for token_id, _ in special)
        self.normalizes_special_tokens = backend.normalizer is not None and any(t.normalized for _, t in special)

    @classmethod
    def from_file(cls, path: Path) -> Self:
        """Loads a ``tokenizer.json`` of at most 256 MiB; its truncation and padding are switched off.

        Raises:
            ModelError: the file is missing, too large or not a tokenizer.
        """
        try:
            with path.open("rb") as file:
                data = file.read(MAX_FILE_BYTES + 1)
        except OSError as error:
            raise ModelError(f"{path}: cannot be read: {error.strerror}") from error
        if len(data) > MAX_FILE_BYTES:
            raise ModelError(f"{path}: more than {MAX_FILE_BYTES} bytes; a tokenizer has at most that")
        return cls.from_bytes(data, what=str(path))

    @classmethod
    def from_bytes(cls, data: bytes, *, what: str) -> Self:
        """Like ``from_file`` with what the file holds; ``what`` names it in errors.

        Raises:
            ModelError: it is no tokenizer.
        """
        with library_errors(ModelError, f"{what}: not a usable tokenizer"):
            # From a buffer is the quickest of the library's ways: no copy, no second check of the UTF-8.
            backend = tokenizers.Tokenizer.from_buffer(data)
        return cls(backend)

    @cached_property
    def vocab_size(self) -> int:
        """The largest id + 1, added tokens included: the whole vocabulary is looked through for it."""
        # Ids without gaps are the rule, and checking it costs less than fetching all tokens with their ids.
        if None not in map(self._plain.id_to_token, range(self.token_count)):
            return self.token_count
        ids: dict[str, int] = self._plain.get_vocab(with_added_tokens=True)
        return max(ids.values()) + 1

    def has_id(self, token_id: int) -> bool:
        """Whether an id is one of the vocabulary's, from 0 to ``vocab_size - 1``."""
        # There are no more tokens than ids, so that most are told without the largest.
        return 0 <= token_id < self.token_count or 0 <= token_id < self.vocab_size

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """Ids of what a user wrote: a special token's text in it stays text.

        ``add_special_tokens`` lets the tokenizer put its own around the text (BOS, EOS, [CLS], …).

        Raises:
            PromptError: the text has lone surrogates, or the tokenizer has no way to encode it.
        """
        encoding = _run(self._plain, text, add_special_tokens)
        return self._with_special_tokens_spelled_out(self._plain, encoding, text, add_special_tokens)

    def encode_continuation(self, text: str) -> list[int]:
        """Like ``encode`` with nothing added, for text that stands behind other tokens, not at the start.

        Raises:
            PromptError: as ``encode``.
        """
        encoding = _run(self._continuation, text)
        return self._with_special_tokens_spelled_out(self._continuation, encoding, text, False)

    def encode_markup(self, text: str) -> list[int]:
        """Ids of a rendered chat template: special tokens in the text are recognised, nothing is added.

        Raises:
            PromptError: as ``encode``.
        """
        ids: list[int] = _run(self._markup, text).ids
        return ids

    @property
    def native(self) -> tokenizers.Tokenizer:
        """The library's tokenizer behind ``encode``; its settings must not be changed."""
        return self._plain

    def spelled_out(self, text: str) -> tokenizers.Encoding | None:
        """The encoding of a text, with nothing added, that would have special ids if ``native`` encoded it; else None.

        Raises:
            PromptError: as ``encode``.
        """
        return self._in_parts(self._plain, _run(self._plain, text), text)

    @cached_property
    def can_spell_special_tokens(self) -> bool:
        """Whether there is a text that ``native`` would give a special token's id for; see ``spelled_out``."""
        return any(self._spelled_tokens(_run(self._plain, token), token) for token in self.special_tokens)

    def special_spans(self, text: str) -> list[tuple[int, int, int]]:
        """Where ``encode_markup`` sees special tokens: (start, end, id), in characters, in order.

        A span includes the white space that the token swallows. Only literal occurrences count.

        Raises:
            PromptError: as ``encode``.
        """
        return self._literal_special_tokens(_run(self._markup, text), text)

    def decode(self, ids: Iterable[int], *, skip_special_tokens: bool = True) -> str:
        """The text of ``ids``; bytes that are not UTF-8 become U+FFFD.

        Raises:
            PromptError: an id is negative or not below ``vocab_size``.
        """
        values = [operator.index(token_id) for token_id in ids]
        if values and (min(values) < 0 or not self.has_id(max(values))):
            self.check_id(next(i for i in values if not self.has_id(i)))
        with library_errors(PromptError, "the tokens cannot be decoded"):
            text: str = self._plain.decode(values, skip_special_tokens=skip_special_tokens)
        return text

    def check_id(self, token_id: int) -> None:
        """Refuses an id outside the vocabulary.

        Raises:
            PromptError: it is; the message gives the range.
        """
        if not self.has_id(token_id):
            raise PromptError(f"token id {token_id} is out of range; ids are from 0 to {self.vocab_size - 1}")

    def token_to_id(self, token: str) -> int | None:
        """Id of a token as it stands in the vocabulary (``Ġthe``, ``<|im_end|>``); None where there is none."""
        try:
            token_id: int | None = self._plain.token_to_id(token)
        except UnicodeEncodeError:  # a lone surrogate: no vocabulary has one
            return None
        return token_id

    def id_to_token(self, token_id: int) -> str | None:
        """The token as it stands in the vocabulary; None for an id that is not in use."""
        if not self.has_id(token_id):
            return None
        token: str | None = self._plain.id_to_token(token_id)
        return token

    def _literal_special_tokens(self, encoding: tokenizers.Encoding, text: str) -> list[tuple[int, int, int]]:
        # The id of the unknown token also stands for characters out of the vocabulary, and a post-processor's tokens
        # for nothing in the text, hence the look at the text.
        return [
            (start, end, token_id)
            for token_id, (start, end) in zip(encoding.ids, encoding.offsets, strict=True)
            if token_id in self.special_token_ids and self.id_to_token(token_id) == text[start:end].strip()
        ]

    def _spelled_tokens(self, encoding: tokenizers.Encoding, text: str) -> list[tuple[int, int]]:
        """Where the model's own vocabulary found special tokens: literal ones, or what the normalizer makes them of.

        Normalizers write full-width characters as plain ones, for example: ``＜/s＞``.
        """
        normalizer = self._plain.normalizer
        found = []
        for token_id, (start, end) in zip(encoding.ids, encoding.offsets, strict=True):
            if token_id in self.special_token_ids and end - start > 1:
                token, piece = self.id_to_token(token_id), text[start:end]
                # The unknown token's id also stands for what the vocabulary has not.
                if token and (token in piece or (normalizer is not None and token in normalizer.normalize_str(piece))):
                    found.append((start, end))
        return found

    def _with_special_tokens_spelled_out(
        self, backend: tokenizers.Tokenizer, encoding: tokenizers.Encoding, text: str, add_special_tokens: bool
    ) -> list[int]:
        joined = self._in_parts(backend, encoding, text)
        if joined is None:
            ids: list[int] = encoding.ids
            return ids
        with library_errors(PromptError, "the text cannot be encoded"):
            joined_ids: list[int] = self._plain.post_process(joined, None, add_special_tokens).ids
        return joined_ids

    def _in_parts(
        self, backend: tokenizers.Tokenizer, encoding: tokenizers.Encoding, text: str
    ) -> tokenizers.Encoding | None:
        """None, unless the model's own vocabulary has a special token that the text spells.

        Unigram and word models then find it as a piece like any other ("</s>" in T5's vocabulary). The text is
        encoded in parts, cut behind such a token's first character (where a word may then seem to start).
        """
        if self.special_token_ids.isdisjoint(encoding.ids):
            return None
        cuts = [0, *(start + 1 for start, _ in self._spelled_tokens(encoding, text)), len(text)]
        if len(cuts) == 2:
            return None
        parts = [_run(self._continuation if start else backend, text[start:end]) for start, end in pairwise(cuts)]
        with library_errors(PromptError, "the text cannot be encoded"):
            return tokenizers.Encoding.merge(parts, growing_offsets=True)


def _run(backend: tokenizers.Tokenizer, text: str, add_special_tokens: bool = False) -> tokenizers.Encoding:
    with library_errors(PromptError, "the text cannot be encoded"):
        return backend.encode(checked_text(text), add_special_tokens=add_special_tokens)


def _continuation(backend: tokenizers.Tokenizer) -> tokenizers.Tokenizer:
    """The tokenizer for text behind other tokens: the same one, unless it marks the first word of a text."""
    state = part_state(backend, "pre_tokenizer")
    changed = without_first_word_mark(state)
    if changed == state:
        return backend
    behind = sibling(backend, build_part("pre_tokenizer", changed))
    behind.encode_special_tokens = True
    return behind
