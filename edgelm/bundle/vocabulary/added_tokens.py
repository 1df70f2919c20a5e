"""Tokens that a checkpoint's files list beside its vocabulary: those that were added to it, each with its id."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edgelm.bundle.vocabulary.sentencepiece import CONTROL, USER_DEFINED, Piece
from edgelm.errors import ModelError


@dataclass(frozen=True, slots=True)
class AddedToken:
    """A token; ``flags``: what ``tokenizer_config.json`` says of how it is found (``lstrip``, ``special``, …)."""

    content: str
    token_id: int
    flags: Mapping[str, Any]


def listed_tokens(older: Mapping[str, Any], settings: Mapping[str, Any], *, what: str) -> list[AddedToken]:
    """The tokens of ``added_tokens.json`` and of ``added_tokens_decoder`` in ``tokenizer_config.json``, by their ids.

    Raises:
        ModelError: one has no id, or no text; ``what`` names where.
    """
    described = settings.get("added_tokens_decoder") or {}
    if not isinstance(described, dict) or not all(_is_token(token) for token in described.values()):
        raise ModelError(f"{what}: added_tokens_decoder must map ids to tokens")
    listed = dict(older)
    for token_id, token in described.items():
        listed[token["content"]] = int(token_id) if str(token_id).isdecimal() and len(token_id) < 12 else -1
    flags = {token["content"]: token for token in described.values()}
    for content, token_id in listed.items():
        if type(token_id) is not int or token_id < 0:
            raise ModelError(f"{what}: the added token {content!r:.80} cannot have the id {token_id!r:.40}")
    tokens = [AddedToken(content, token_id, flags.get(content, {})) for content, token_id in listed.items()]
    return sorted(tokens, key=lambda token: token.token_id)


def with_added_tokens(pieces: Sequence[Piece], tokens: Iterable[AddedToken], what: str) -> list[Piece]:
    """The pieces, with those tokens behind them that are none of them.

    Raises:
        ModelError: a token's id is another piece's, or leaves a gap.
    """
    made = list(pieces)
    for token in tokens:
        if token.token_id == len(made):
            kind = CONTROL if token.flags.get("special") else USER_DEFINED
            made.append(Piece(token.content, 0.0, kind, strips=bool(token.flags.get("lstrip"))))
        if token.token_id > len(made) or made[token.token_id].text != token.content:
            raise ModelError(f"{what}: the added token {token.content!r:.80} cannot have the id {token.token_id}")
    return made


def _is_token(value: Any) -> bool:
    return isinstance(value, dict) and isinstance(value.get("content"), str)
