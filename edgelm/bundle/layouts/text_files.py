"""The text side of a folder, as a bundle has it: ``chat_template.jinja``, ``special_tokens.json``, ``tokenizer.json``.

Other tools keep the template and the special tokens in ``tokenizer_config.json``, and some only SentencePiece's model.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from edgelm.bundle.layouts.listing import Listing
from edgelm.bundle.layouts.model_config import CONFIG_NAME
from edgelm.bundle.regular_file import read_file
from edgelm.bundle.vocabulary.sentencepiece_files import MAX_FILE_BYTES, read_sentencepiece
from edgelm.bundle.vocabulary.special_roles import named_special_tokens
from edgelm.bundle.vocabulary.tokenizer_class import tokenizer_class
from edgelm.errors import ModelError

TOKENIZER_NAME = "tokenizer.json"
SETTINGS_NAME = "tokenizer_config.json"
MAP_NAME = "special_tokens_map.json"
TEMPLATE_NAME = "chat_template.jinja"
SPECIAL_TOKENS_NAME = "special_tokens.json"
# transformers writes this for "no limit", as a float of some 1e30.
_NO_LIMIT = 10**8


def text_documents(listing: Listing) -> dict[str, bytes]:
    """The documents by the names that a bundle gives them; a template in a file of its own is left to be read there.

    Raises:
        ModelError: a file is broken, or a value is not of its kind.
    """
    settings = listing.optional_object(SETTINGS_NAME)
    roles = _special_tokens(listing, settings)
    documents = {}
    if TOKENIZER_NAME not in listing.files:
        made = _tokenizer(listing, settings)
        if made is not None:
            documents[TOKENIZER_NAME], usual = made
            roles = {**usual, **roles}
    documents[SPECIAL_TOKENS_NAME] = json.dumps(roles).encode()
    template = settings.get("chat_template")
    if isinstance(template, list):  # several, by name
        named = [item for item in template if isinstance(item, dict) and item.get("name") == "default"]
        template = named[0].get("template") if named else None
    if template is not None and not isinstance(template, str):
        raise ModelError(f"{SETTINGS_NAME}: chat_template must be a string or a list of named ones")
    if template is not None and TEMPLATE_NAME not in listing.files:
        documents[TEMPLATE_NAME] = template.encode()
    return documents


def longest_text(listing: Listing) -> int | None:
    """``model_max_length`` of the tokenizer, in tokens; None where it says nothing."""
    return model_max_length(listing.optional_object(SETTINGS_NAME))


def model_max_length(settings: Mapping[str, Any]) -> int | None:
    """The same, of what ``tokenizer_config.json`` says."""
    value = settings.get("model_max_length")
    whole = isinstance(value, int) and not isinstance(value, bool) and 0 < value < _NO_LIMIT
    return value if whole else None


def _tokenizer(listing: Listing, settings: dict[str, Any]) -> tuple[bytes, Mapping[str, str]] | None:
    """A ``tokenizer.json`` made of the folder's SentencePiece model, and the usual special tokens of its kind."""
    kind = tokenizer_class(listing.optional_object(CONFIG_NAME), settings)

    def read(name: str) -> bytes | None:
        return read_file(listing.folder, name, limit=MAX_FILE_BYTES) if name in listing.files else None

    return read_sentencepiece(read, kind, settings, what=str(listing.folder))


def _special_tokens(listing: Listing, settings: dict[str, Any]) -> dict[str, str]:
    return named_special_tokens(settings, listing.optional_object(MAP_NAME), what=SETTINGS_NAME)
