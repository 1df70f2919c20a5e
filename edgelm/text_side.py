"""The text side of a bundle: its tokenizer, held to the model that it goes with."""

from __future__ import annotations

from edgelm.bundle.bundle import Bundle
from edgelm.errors import ModelError
from edgelm.text.tokenizer import MAX_FILE_BYTES, Tokenizer

TOKENIZER_NAME = "tokenizer.json"


def read_tokenizer(bundle: Bundle) -> Tokenizer:
    """The bundle's tokenizer.

    Raises:
        ModelError: it is missing or broken, or another model's.
    """
    data, manifest = bundle.read_bytes(TOKENIZER_NAME, MAX_FILE_BYTES), bundle.manifest
    what = str(bundle.folder / TOKENIZER_NAME)
    return fitting_tokenizer(data, manifest.vocab_size, what=what, model=manifest.name)


def fitting_tokenizer(data: bytes, vocab_size: int, *, what: str, model: str) -> Tokenizer:
    """The tokenizer of a ``tokenizer.json`` for a model of ``vocab_size`` tokens; ``what`` and ``model`` name both.

    Special tokens may be more than the model knows, as the mask of BART's summarizers is: no text becomes one.

    Raises:
        ModelError: it is broken, or has other tokens that the model does not know, or puts such around texts.
    """
    tokenizer = Tokenizer.from_bytes(data, what=what)
    unknown = range(vocab_size, tokenizer.vocab_size)
    if not tokenizer.special_token_ids.issuperset(unknown) or max(tokenizer.encode(""), default=0) >= vocab_size:
        raise ModelError(
            f"{model}: the tokenizer has ids up to {tokenizer.vocab_size - 1}, but the model knows {vocab_size} tokens"
        )
    return tokenizer
