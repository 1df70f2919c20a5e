"""Around the library ``tokenizers``: texts that it can take, its errors as ours, and copies that share a model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import groupby
from typing import Any

import tokenizers

from edgelm.errors import EdgeLMError, ModelError, PromptError


def checked_text(text: str) -> str:
    """The text, if it is one that can be encoded.

    Raises:
        PromptError: it is no string, or has a lone surrogate.
    """
    if not isinstance(text, str):
        raise PromptError(f"a text must be a string, not {type(text).__name__}")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        code = ord(text[error.start])
        raise PromptError(f"the text has a lone surrogate (U+{code:04X}) at character {error.start}") from error
    return text


@contextmanager
def library_errors(kind: type[EdgeLMError], what: str) -> Iterator[None]:
    """Turns what the library raises into ``kind``.

    Its errors are bare ``Exception``; a Rust panic is a ``BaseException`` of a class that cannot be imported.
    """
    try:
        yield
    except (EdgeLMError, MemoryError):
        raise
    except Exception as error:
        raise kind(f"{what}: {_first_line(error)}") from error
    except BaseException as error:
        if (type(error).__module__, type(error).__name__) != ("pyo3_runtime", "PanicException"):
            raise
        raise kind(f"{what}: {_first_line(error)}") from error


def _first_line(error: BaseException) -> str:
    lines = str(error).splitlines()
    return lines[0][:300] if lines else type(error).__name__


def sibling(
    backend: tokenizers.Tokenizer, pre_tokenizer: Any = None, *, ordinary: frozenset[str] = frozenset()
) -> tokenizers.Tokenizer:
    """A tokenizer over the same model and added tokens, without post-processor (it adds nothing, trims no offsets).

    ``ordinary``: special tokens that are to be recognised in every text, as added tokens that are not special are.
    """
    made = tokenizers.Tokenizer(backend.model)
    if backend.normalizer is not None:
        made.normalizer = backend.normalizer
    if pre_tokenizer is not None or backend.pre_tokenizer is not None:
        made.pre_tokenizer = backend.pre_tokenizer if pre_tokenizer is None else pre_tokenizer
    added = {
        token_id: _not_special(token) if token.content in ordinary else token
        for token_id, token in backend.get_added_tokens_decoder().items()
    }
    # In order of ids, the library gives each the id it had: one of the model's own, or the next above them.
    for special, tokens in groupby((token for _, token in sorted(added.items())), key=lambda token: token.special):
        (made.add_special_tokens if special else made.add_tokens)(list(tokens))
    copied = made.get_added_tokens_decoder()
    if {i: t.content for i, t in copied.items()} != {i: t.content for i, t in added.items()}:
        raise ModelError("the tokenizer's added tokens do not keep their ids when added in order")
    return made


def _not_special(token: tokenizers.AddedToken) -> tokenizers.AddedToken:
    return tokenizers.AddedToken(
        token.content,
        single_word=token.single_word,
        lstrip=token.lstrip,
        rstrip=token.rstrip,
        normalized=token.normalized,
        special=False,
    )
