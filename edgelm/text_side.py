"""The text side of a bundle: its tokenizer, held to the model that it goes with."""

from __future__ import annotations

from edgelm.bundle.bundle import Bundle
from edgelm.errors import ModelError
from edgelm.text.tokenizer import MAX_FILE_BYTES, Tokenizer

TOKENIZER_NAME = "tokenizer.json"


def read_tokenizer(bundle: Bundle) -> Tokenizer:
    """The bundle's tokenizer.

    Raises:
        ModelError: it is missing or broken, or has more tokens than the model.
    """
    data = bundle.read_bytes(TOKENIZER_NAME, MAX_FILE_BYTES)
    tokenizer, manifest = Tokenizer.from_bytes(data, what=str(bundle.folder / TOKENIZER_NAME)), bundle.manifest
    if tokenizer.vocab_size > manifest.vocab_size:
        raise ModelError(
            f"{manifest.name}: the tokenizer has ids up to {tokenizer.vocab_size - 1}, "
            f"but the model knows {manifest.vocab_size} tokens"
        )
    return tokenizer
