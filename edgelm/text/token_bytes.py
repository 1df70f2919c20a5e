"""The bytes that each token of a vocabulary adds to a text, for grammars, which follow a text byte by byte."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from edgelm.errors import UnsupportedModelError
from edgelm.text.pipeline import decoder_steps, part_state
from edgelm.text.tokenizer import Tokenizer

_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")

Step = Callable[[str], str | bytes]
"""What a decoder does to a token; where it gives bytes, they are final."""


@dataclass(frozen=True, slots=True)
class TokenBytes:
    """The bytes of each token of a tokenizer; joined, those of an answer's tokens are its text.

    Attributes:
        tokens: by id; empty for special tokens, ids that are not in use, and what has no bytes of its own.
        drops_first_space: whether a text loses the space that its first token begins with.
    """

    tokens: list[bytes]
    drops_first_space: bool


def token_bytes(tokenizer: Tokenizer) -> TokenBytes:
    """Reads what the tokenizer's decoder makes of each token.

    Raises:
        UnsupportedModelError: the text of a token depends on those around it.
    """
    described = decoder_steps(part_state(tokenizer.native, "decoder"))
    if not described:
        raise _refusal("has no decoder: its tokens are words, joined by spaces")
    steps = [step for each in described if (step := _step(each)) is not None]
    mark = next((each["replacement"] for each in described if _drops_mark(each)), None)
    tokens = []
    for token_id in range(tokenizer.vocab_size):
        token = tokenizer.id_to_token(token_id)
        if token is None or token_id in tokenizer.special_token_ids:
            tokens.append(b"")
            continue
        value: str | bytes = token
        for step in steps:
            value = value if isinstance(value, bytes) else step(value)
        value = value.encode() if isinstance(value, str) else value
        tokens.append(value if mark is None or _is_own(token, value, mark) else b"")
    return TokenBytes(tokens, mark is not None or any(map(_drops_space, described)))


def _step(step: Mapping[str, Any]) -> Step | None:
    """What a step of a decoder does to each token; None: nothing."""
    kind = step.get("type")
    if kind == "ByteLevel":
        return _from_byte_alphabet
    if kind == "ByteFallback":
        return _from_byte_name
    if kind == "Metaspace":
        return lambda token: token.replace(step["replacement"], " ")
    if kind == "Replace" and "String" in step.get("pattern", {}):
        old, new = step["pattern"]["String"], step["content"]
        return lambda token: token.replace(old, new)
    if kind == "Fuse" or _drops_space(step):
        return None
    raise _refusal(f"is {kind}, so that a token's text depends on those around it")


def _drops_space(step: Mapping[str, Any]) -> bool:
    """Whether a step takes one space off the beginning of a text."""
    return step.get("type") == "Strip" and (step.get("content"), step.get("start"), step.get("stop")) == (" ", 1, 0)


def _drops_mark(step: Mapping[str, Any]) -> bool:
    """Whether a step takes all marks for spaces out of the first token."""
    return step.get("type") == "Metaspace" and step.get("prepend_scheme") != "never"


def _is_own(token: str, value: bytes, mark: str) -> bool:
    """Whether a first token that loses its marks loses the space that it begins with, and nothing else."""
    return mark not in token[1:] and (token.startswith(mark) or not value.startswith(b" "))


def _from_byte_name(token: str) -> str | bytes:
    named = _BYTE.fullmatch(token)
    return bytes.fromhex(named[1]) if named else token


def _from_byte_alphabet(token: str) -> bytes:
    try:
        return token.translate(_BYTE_ALPHABET).encode("latin-1")
    except UnicodeEncodeError:  # as the library does with a token that has other characters
        return token.encode()


def _byte_alphabet() -> dict[int, int]:
    """Character → byte of byte-level vocabularies; characters below 256 that stand for none → one that is no byte.

    GPT-2's: bytes that are visible characters of Latin-1 stand for themselves, the others, in order, for U+0100 and up.
    """
    visible = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in visible]
    alphabet = {0x100 + place: byte for place, byte in enumerate(others)}
    return alphabet | dict.fromkeys(others, 0x100)


_BYTE_ALPHABET = _byte_alphabet()


def _refusal(why: str) -> UnsupportedModelError:
    return UnsupportedModelError(f"answers cannot be held to a form with this model: its tokenizer's decoder {why}")
