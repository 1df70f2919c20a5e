"""What encoders are given: one text or two with the tokenizer's special tokens, and where each token came from.

Tokenizing, truncation and windows are the library's own, which is also transformers': its batch form works without
Python's lock, on all cores. Truncation is a setting of the library's tokenizer, so there is one for each truncation
in use, over the same vocabulary.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import tokenizers

from edgelm.checks import check_int
from edgelm.errors import ConfigError, PromptError
from edgelm.text.library import checked_text, library_errors, sibling
from edgelm.text.tokenizer import Tokenizer

Strategy = Literal["longest_first", "only_first", "only_second"]
# A text, or two that belong together: question and passage, premise and hypothesis.
TextOrPair = str | tuple[str, str]

_KEPT_VARIANTS = 16


@dataclass(frozen=True, slots=True)
class Truncation:
    """How longer inputs are cut.

    Attributes:
        max_length: tokens that are left, special ones included.
        strategy: which of two texts loses tokens; ``longest_first``: the longer one, then both alike.
        stride: tokens by which a window overlaps the one before it.

    Raises:
        ConfigError: an unknown strategy, or a number out of range.
    """

    max_length: int
    strategy: Strategy = "longest_first"
    stride: int = 0

    def __post_init__(self) -> None:
        if self.strategy not in get_args(Strategy):
            raise ConfigError(f"strategy must be one of {', '.join(get_args(Strategy))}, not {self.strategy!r:.80}")
        check_int("max_length", self.max_length, 1)
        check_int("stride", self.stride, 0)


class Encoding:
    """An encoded text or pair; every list has an element for each token.

    Attributes:
        windows: this encoding, then those of what truncation cut off, each with special tokens of its own.
    """

    __slots__ = ("_native",)

    def __init__(self, native: tokenizers.Encoding) -> None:
        self._native = native

    def __len__(self) -> int:
        return len(self._native)

    @property
    def ids(self) -> list[int]:
        """Token ids."""
        ids: list[int] = self._native.ids
        return ids

    @property
    def type_ids(self) -> list[int]:
        """What BERT-like models call token types: 1 for the second text, if the tokenizer tells them apart."""
        type_ids: list[int] = self._native.type_ids
        return type_ids

    @property
    def tokens(self) -> list[str]:
        """The tokens as they stand in the vocabulary."""
        tokens: list[str] = self._native.tokens
        return tokens

    @property
    def offsets(self) -> list[tuple[int, int]]:
        """Start and end of each token in its own text, in characters of the original; (0, 0) for special tokens.

        All are (0, 0) where the encoding was asked for without offsets.
        """
        offsets: list[tuple[int, int]] = self._native.offsets
        return offsets

    @property
    def word_ids(self) -> list[int | None]:
        """The word, counted from 0 in its text, that each token is of; None for special tokens."""
        word_ids: list[int | None] = self._native.word_ids
        return word_ids

    @property
    def sequence_ids(self) -> list[int | None]:
        """0 for tokens of the first text, 1 for those of the second, None for special tokens."""
        sequence_ids: list[int | None] = self._native.sequence_ids
        return sequence_ids

    @property
    def special_tokens_mask(self) -> list[int]:
        """1 for the special tokens that were added."""
        mask: list[int] = self._native.special_tokens_mask
        return mask

    @property
    def windows(self) -> list[Encoding]:
        """See the class."""
        return [self, *(Encoding(native) for native in self._native.overflowing)]


class TextEncoder:
    """Encodes texts and pairs for encoders; may be used by many threads.

    Special tokens come from the tokenizer's own post-processor. What a user writes stays text, unless ``markup`` asks
    for the special tokens in it (``[MASK]``) to be recognised.

    Args:
        tokenizer: the model's.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self._variants: dict[tuple[Truncation | None, bool], tokenizers.Tokenizer] = {(None, False): tokenizer.native}
        self._lock = threading.Lock()
        # Without post-processor, which must see an encoding once only: it trims offsets.
        self._bare = sibling(tokenizer.native)
        self._bare.encode_special_tokens = True

    def added_tokens(self, *, pair: bool) -> int:
        """How many special tokens are put around a text, or a pair."""
        count: int = self.tokenizer.native.num_special_tokens_to_add(pair)
        return count

    def encode(
        self, text: str, pair: str | None = None, *, truncation: Truncation | None = None, markup: bool = False
    ) -> Encoding:
        """One text or pair. Raises as ``encode_batch``."""
        given = text if pair is None else (text, pair)
        return self.encode_batch([given], truncation=truncation, markup=markup)[0]

    def encode_batch(
        self,
        texts: Sequence[TextOrPair],
        *,
        truncation: Truncation | None = None,
        markup: bool = False,
        offsets: bool = True,
        start: int = 0,
    ) -> list[Encoding]:
        """Many texts or pairs, in their order; nothing is padded.

        Args:
            texts: strings, or tuples of two.
            truncation: None: nothing is cut.
            markup: recognise special tokens that are written in the texts.
            offsets: False saves the work of keeping them.
            start: the number of the first text, for messages.

        Raises:
            ConfigError: the truncation leaves no room beside the special tokens and the stride.
            PromptError: this is no list; a text is no string or has lone surrogates (names its index); or the text
                that should lose tokens is too short to, or missing.
        """
        refuse_single(texts)
        texts = list(texts)
        for index, text in enumerate(texts, start):
            _check(text, index)
        if truncation is not None:
            self._check_room(truncation, pair=any(isinstance(text, tuple) for text in texts))
            if truncation.stride:
                self._check_windows(texts, truncation, start)
        variant = self._variant(truncation, markup)
        with library_errors(PromptError, "the texts cannot be encoded"):
            encode = variant.encode_batch if offsets else variant.encode_batch_fast
            natives: list[tokenizers.Encoding] = encode(texts)
        if not markup:
            self._spell_out(texts, natives, variant)
        return [Encoding(native) for native in natives]

    def _check_windows(self, texts: Sequence[TextOrPair], truncation: Truncation, start: int) -> None:
        """Looks for texts of a pair that keep no more tokens than the stride: there the library would panic."""
        room = truncation.max_length - self.added_tokens(pair=True)
        for index, text in enumerate(texts, start):
            if not isinstance(text, tuple):
                continue
            lengths = [len(part) for part in self._parts(text)]
            left = _left(lengths, truncation, room)
            if any(kept < length and kept <= truncation.stride for kept, length in zip(left, lengths, strict=True)):
                raise PromptError(
                    f"text {index}: {lengths[0]} + {lengths[1]} tokens leave no room for windows of "
                    f"{truncation.max_length} tokens that overlap by {truncation.stride}"
                )

    def _spell_out(
        self, texts: Sequence[TextOrPair], natives: list[tokenizers.Encoding], variant: tokenizers.Tokenizer
    ) -> None:
        """Encodes anew the texts in which the model's vocabulary would find a special token as a piece."""
        if not self.tokenizer.can_spell_special_tokens:
            return
        for index, (text, native) in enumerate(zip(texts, natives, strict=True)):
            parts = text if isinstance(text, tuple) else (text,)
            if self._has_special_piece(native) and any(map(self.tokenizer.spelled_out, parts)):
                with library_errors(PromptError, "the texts cannot be encoded"):
                    first, *second = self._parts(text)
                    natives[index] = variant.post_process(first, second[0] if second else None)

    def _has_special_piece(self, native: tokenizers.Encoding) -> bool:
        special = self.tokenizer.special_token_ids
        return any(
            token in special and not added
            for window in (native, *native.overflowing)
            for token, added in zip(window.ids, window.special_tokens_mask, strict=True)
        )

    def _parts(self, text: TextOrPair) -> list[tokenizers.Encoding]:
        parts = text if isinstance(text, tuple) else (text,)
        with library_errors(PromptError, "the text cannot be encoded"):
            return [
                self.tokenizer.spelled_out(part) or self._bare.encode(part, add_special_tokens=False) for part in parts
            ]

    def _check_room(self, truncation: Truncation, *, pair: bool) -> None:
        added = self.added_tokens(pair=pair)
        if truncation.max_length - added <= truncation.stride:
            stride = f" and a stride of {truncation.stride}" if truncation.stride else ""
            raise ConfigError(
                f"max_length must be above {added + truncation.stride}, for {added} special tokens{stride}, "
                f"not {truncation.max_length}"
            )

    def _variant(self, truncation: Truncation | None, markup: bool) -> tokenizers.Tokenizer:
        with self._lock:
            variant = self._variants.get((truncation, markup))
            if variant is None:
                variant = self._new_variant(truncation, markup)
                if len(self._variants) >= _KEPT_VARIANTS:
                    del self._variants[next(key for key in self._variants if key != (None, False))]
                self._variants[truncation, markup] = variant
            return variant

    def _new_variant(self, truncation: Truncation | None, markup: bool) -> tokenizers.Tokenizer:
        native = self.tokenizer.native
        variant = sibling(native)
        if native.post_processor is not None:
            variant.post_processor = native.post_processor
        variant.encode_special_tokens = not markup
        if truncation is not None:
            variant.enable_truncation(truncation.max_length, stride=truncation.stride, strategy=truncation.strategy)
        return variant


def refuse_single(texts: Iterable[TextOrPair]) -> None:
    """Refuses what is no list of texts, and a single string, which would be taken letter by letter.

    Raises:
        PromptError: it is one.
    """
    if isinstance(texts, str):
        raise PromptError("texts must be a list of texts; for a single one: [text]")
    if not isinstance(texts, Iterable):
        raise PromptError(f"texts must be a list of texts, not {type(texts).__name__}")


def _left(lengths: Sequence[int], truncation: Truncation, room: int) -> list[int]:
    """Tokens that each text keeps of the ``room`` for both."""
    excess = sum(lengths) - room
    if excess <= 0:
        return list(lengths)
    if truncation.strategy != "longest_first":
        loser = 0 if truncation.strategy == "only_first" else 1
        return [length - excess if place == loser else length for place, length in enumerate(lengths)]
    if len(lengths) == 1:
        return [room]
    shorter, longer = min(lengths), max(min(lengths), room - min(lengths))
    if shorter + longer > room:
        shorter = room // 2
        longer = shorter + room % 2
    return [shorter, longer] if lengths[0] <= lengths[1] else [longer, shorter]


def _check(text: TextOrPair, index: int) -> None:
    parts = text if isinstance(text, tuple) else (text,)
    try:
        if isinstance(text, tuple) and len(parts) != 2:
            raise PromptError(f"a pair has two texts, not {len(parts)}")
        for part in parts:
            checked_text(part)
    except PromptError as error:
        raise PromptError(f"text {index}: {error}") from None
