from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgelm.errors import PromptError
from edgelm.text.utf8 import decode_utf8


@given(st.text())
def test_utf8_text_is_decoded(text: str) -> None:
    assert decode_utf8(text.encode(), "standard input") == text


@given(
    st.text(), st.sampled_from([b"\xff", b"\xc3", b"\xed\xa0\x80", b"\x80"]), st.text(st.characters(max_codepoint=127))
)
def test_invalid_utf8_names_the_byte(before: str, bad: bytes, after: str) -> None:
    offset = len(before.encode())
    with pytest.raises(
        PromptError, match=f"standard input is not UTF-8: invalid byte 0x{bad[0]:02X} at offset {offset}"
    ):
        decode_utf8(before.encode() + bad + after.encode(), "standard input")
