"""Bytes to text, with errors that say what of a user's they are about."""

from __future__ import annotations

from edgelm.errors import PromptError


def decode_utf8(data: bytes, what: str) -> str:
    """The text of UTF-8 ``data``; ``what`` names its source in the message (``standard input``).

    Raises:
        PromptError: it is not UTF-8; says the offset of the first invalid byte.
    """
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        byte = data[error.start]
        raise PromptError(f"{what} is not UTF-8: invalid byte 0x{byte:02X} at offset {error.start}") from error
