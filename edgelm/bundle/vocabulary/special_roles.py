"""Special tokens by role: what families of tokenizers have by themselves, and what a checkpoint's files say."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgelm.errors import ModelError

SPECIAL_ROLES = ("bos_token", "eos_token", "unk_token", "pad_token", "cls_token", "sep_token", "mask_token")

BRACKETS = {
    "unk_token": "[UNK]",
    "sep_token": "[SEP]",
    "pad_token": "[PAD]",
    "cls_token": "[CLS]",
    "mask_token": "[MASK]",
}
ANGLES = {
    "bos_token": "<s>",
    "eos_token": "</s>",
    "unk_token": "<unk>",
    "sep_token": "</s>",
    "pad_token": "<pad>",
    "cls_token": "<s>",
    "mask_token": "<mask>",
}


def named_special_tokens(settings: Mapping[str, Any], older: Mapping[str, Any], *, what: str) -> dict[str, str]:
    """Role → text, by ``tokenizer_config.json``, and where that leaves a role open by ``special_tokens_map.json``.

    Raises:
        ModelError: a token is neither a string nor an object with one; ``what`` names where.
    """
    tokens: dict[str, str] = {}
    for role in SPECIAL_ROLES:
        value = settings.get(role) if settings.get(role) is not None else older.get(role)
        text = value.get("content") if isinstance(value, dict) else value
        if text is None:
            continue
        if not isinstance(text, str):
            raise ModelError(f"{what}: {role} must be a string or an object with content, not {value!r:.80}")
        tokens[role] = text
    return tokens
