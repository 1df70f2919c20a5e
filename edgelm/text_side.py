"""The text side of a bundle: its tokenizer, held to the model that it goes with."""

from __future__ import annotations

from edgelm.bundle.bundle import Bundle
from edgelm.bundle.home import stamps_folder
from edgelm.bundle.opened import is_known
from edgelm.errors import ModelError
from edgelm.text.tokenizer import MAX_FILE_BYTES, Tokenizer

TOKENIZER_NAME = "tokenizer.json"
# Real models have a few that they do not know (a mask, an image); memory limits count only what the model knows.
MAX_UNKNOWN_TOKENS = 4096


def read_tokenizer(bundle: Bundle) -> Tokenizer:
    """The bundle's tokenizer.

    Raises:
        ModelError: it is missing or broken, or another model's.
    """
    data, manifest = bundle.read_bytes(TOKENIZER_NAME, MAX_FILE_BYTES), bundle.manifest
    what = str(bundle.folder / TOKENIZER_NAME)
    known = is_known(bundle.folder, manifest, stamps=stamps_folder())
    return fitting_tokenizer(data, manifest.vocab_size, what=what, model=manifest.name, known=known)


def fitting_tokenizer(data: bytes, vocab_size: int, *, what: str, model: str, known: bool = False) -> Tokenizer:
    """The tokenizer of a ``tokenizer.json`` for a model of ``vocab_size`` tokens; ``what`` and ``model`` name both.

    Special tokens may be more than the model knows, as the mask of BART's summarizers is: no text becomes one.
    ``known``: it was checked before (see ``bundle.opened``), so that ids are not looked at where their number fits.

    Raises:
        ModelError: it is broken, or has other tokens that the model does not know, or more than
            ``MAX_UNKNOWN_TOKENS`` of them, or puts such around texts.
    """
    tokenizer = Tokenizer.from_bytes(data, what=what)
    if tokenizer.token_count > vocab_size + MAX_UNKNOWN_TOKENS:
        raise ModelError(
            f"{model}: the tokenizer has {tokenizer.token_count} tokens, of which the model knows {vocab_size}; "
            f"at most {MAX_UNKNOWN_TOKENS} may be unknown to it"
        )
    unknown = () if known and tokenizer.token_count <= vocab_size else range(vocab_size, tokenizer.vocab_size)
    if not tokenizer.special_token_ids.issuperset(unknown) or max(tokenizer.encode(""), default=0) >= vocab_size:
        raise ModelError(
            f"{model}: the tokenizer has ids up to {tokenizer.vocab_size - 1}, but the model knows {vocab_size} tokens"
        )
    return tokenizer
