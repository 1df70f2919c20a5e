"""Between tokens of the vocabulary and the text that they stand for, one token at a time."""

from __future__ import annotations

from collections.abc import Sequence

from edgelm.errors import ModelError, PromptError
from edgelm.text.library import library_errors, sibling
from edgelm.text.tokenizer import Tokenizer

# In this order: " ' " must be whole for what follows it.
_STRAY_SPACES = tuple(
    (f" {mark}", mark.strip()) for mark in (".", "?", "!", ",", "' ", "n't", "'m", "'s", "'ve", "'re")
)
_UNDECODED = "\ufffd"
_SPACE = "\u2581"


def join_tokens(tokenizer: Tokenizer, tokens: Sequence[str]) -> str:
    """The text that tokens, as they stand in the vocabulary, spell together; special ones stay.

    Raises:
        PromptError: the tokenizer has no way to decode them.
    """
    decoder = tokenizer.native.decoder
    if decoder is None:
        return " ".join(tokens)
    with library_errors(PromptError, "the tokens cannot be decoded"):
        text: str = decoder.decode(list(tokens))
    return text


def marks_continuation(tokenizer: Tokenizer) -> bool:
    """Whether the vocabulary marks tokens that do not start a word, as WordPiece does with ``##``."""
    return bool(getattr(tokenizer.native.model, "continuing_subword_prefix", None))


def reading_token(tokenizer: Tokenizer, token: str) -> Tokenizer:
    """A tokenizer over the same vocabulary that recognises one special token in what users write: ``[MASK]``.

    It is for encoding: when it decodes, that token is no special one.

    Raises:
        ModelError: the tokenizer has no such special token.
    """
    if token not in tokenizer.special_tokens:
        raise ModelError(f"{token!r:.80} is not a special token of the tokenizer")
    made = sibling(tokenizer.native, ordinary=frozenset({token}))
    for part in ("post_processor", "decoder"):
        value = getattr(tokenizer.native, part)
        if value is not None:
            setattr(made, part, value)
    return Tokenizer(made)


def token_label(tokenizer: Tokenizer, token_id: int) -> str:
    """A token for people to read: the text that it stands for by itself, else as it stands in the vocabulary.

    The vocabulary's own form is shown of special tokens, of pieces of a character, and of what goes on with a word
    (``##ing``); an id that is not in use is shown as a number.
    """
    token = tokenizer.id_to_token(token_id)
    if token is None:
        return f"#{token_id}"
    text = tokenizer.decode([token_id], skip_special_tokens=False)
    if _UNDECODED in text or not text:
        return token.replace(_SPACE, " ")
    # Decoders that join words with spaces leave out the one before the first.
    return f" {text}" if token.startswith(_SPACE) and not text.startswith(" ") else text


def without_stray_spaces(text: str) -> str:
    """English text without the spaces that joining tokens leaves before punctuation and contractions.

    What transformers does to decoded text for tokenizers with ``clean_up_tokenization_spaces``.
    """
    for spaced, tight in _STRAY_SPACES:
        text = text.replace(spaced, tight)
    return text
