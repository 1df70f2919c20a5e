"""Tokens for people to look at: blanks as marks, and nothing that would move, hide or turn the text around it."""

from __future__ import annotations

_MARKS = {" ": "␣", "\n": "↵", "\t": "⇥"}
# How byte-level vocabularies write bytes: those that are printable in Latin-1 as themselves, the others from 256 on.
_PLAIN_BYTES = (*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100))
_OTHER_BYTES = (byte for byte in range(256) if byte not in _PLAIN_BYTES)
_BYTES = {chr(byte): byte for byte in _PLAIN_BYTES} | {chr(256 + n): byte for n, byte in enumerate(_OTHER_BYTES)}


def visible(token: str) -> str:
    """A token's text with marks for blanks, and what cannot be printed as the escape that Python has for it."""
    return "".join(map(_shown, token)) or "∅"


def bytes_spelled(token: str) -> str:
    """A token of a byte-level vocabulary with parts of characters, its bytes as escapes; any other as it is."""
    if not all(char in _BYTES for char in token):
        return token
    return bytes(_BYTES[char] for char in token).decode("utf-8", "backslashreplace")


def printable(text: str) -> str:
    """A text with its blanks and line breaks as they are, and what cannot be printed as an escape."""
    return "".join(char if char in _MARKS else _escaped(char) for char in text)


def _shown(char: str) -> str:
    return _MARKS.get(char) or _escaped(char)


def _escaped(char: str) -> str:
    return char if char.isprintable() else char.encode("unicode_escape").decode("ascii")
