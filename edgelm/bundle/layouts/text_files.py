"""The text side of a folder, as a bundle has it: ``chat_template.jinja`` and ``special_tokens.json``.

Other tools keep the template and the special tokens in ``tokenizer_config.json``.
"""

from __future__ import annotations

import json
from typing import Any

from edgelm.bundle.layouts.listing import Listing
from edgelm.errors import ModelError

SETTINGS_NAME = "tokenizer_config.json"
MAP_NAME = "special_tokens_map.json"
TEMPLATE_NAME = "chat_template.jinja"
SPECIAL_TOKENS_NAME = "special_tokens.json"
_ROLES = ("bos_token", "eos_token", "unk_token", "pad_token", "cls_token", "sep_token", "mask_token")
# transformers writes this for "no limit", as a float of some 1e30.
_NO_LIMIT = 10**8


def text_documents(listing: Listing) -> dict[str, bytes]:
    """The documents by the names that a bundle gives them; a template in a file of its own is left to be read there.

    Raises:
        ModelError: a file is broken, or a value is not of its kind.
    """
    settings = listing.optional_object(SETTINGS_NAME)
    documents = {SPECIAL_TOKENS_NAME: json.dumps(_special_tokens(listing, settings)).encode()}
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
    value = listing.optional_object(SETTINGS_NAME).get("model_max_length")
    whole = isinstance(value, int) and not isinstance(value, bool) and 0 < value < _NO_LIMIT
    return value if whole else None


def _special_tokens(listing: Listing, settings: dict[str, Any]) -> dict[str, str]:
    """Role → text. The map is the older file: it only fills what the settings leave open."""
    older = listing.optional_object(MAP_NAME)
    tokens: dict[str, str] = {}
    for role in _ROLES:
        value = settings.get(role) if settings.get(role) is not None else older.get(role)
        text = value.get("content") if isinstance(value, dict) else value
        if text is None:
            continue
        if not isinstance(text, str):
            raise ModelError(f"{SETTINGS_NAME}: {role} must be a string or an object with content, not {value!r:.80}")
        tokens[role] = text
    return tokens
