"""Pictures and pages hold the maps that they were made of, and nothing that a text could slip in."""

from __future__ import annotations

import base64
import json
import re
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray

from edgelm.errors import ConfigError
from edgelm.inspection import attention_image, attention_page
from edgelm.inspection.attention_image import attention_png, palette
from edgelm.inspection.maps import Attention, AttentionMap
from edgelm.inspection.png import png_bytes


def decoded(data: bytes) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Image and palette of an indexed, unfiltered PNG; its checksums are right."""
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    chunks: dict[bytes, bytes] = {}
    place = 8
    while place < len(data):
        (length,) = struct.unpack_from(">I", data, place)
        kind, body = data[place + 4 : place + 8], data[place + 8 : place + 8 + length]
        assert struct.unpack_from(">I", data, place + 8 + length)[0] == zlib.crc32(kind + body)
        chunks[kind] = body
        place += 12 + length
    assert list(chunks) == [b"IHDR", b"PLTE", b"IDAT", b"IEND"]
    width, height, *rest = struct.unpack(">IIBBBBB", chunks[b"IHDR"])
    assert rest == [8, 3, 0, 0, 0]
    rows = np.frombuffer(zlib.decompress(chunks[b"IDAT"]), np.uint8).reshape(height, width + 1)
    assert not rows[:, 0].any()
    return rows[:, 1:], np.frombuffer(chunks[b"PLTE"], np.uint8).reshape(-1, 3)


@given(arrays.arrays(np.uint8, st.tuples(st.integers(1, 40), st.integers(1, 40))))
def test_a_png_holds_its_pixels(image: NDArray[np.uint8]) -> None:
    pixels, colours = decoded(png_bytes(image, palette()))
    assert np.array_equal(pixels, image)
    assert np.array_equal(colours, palette())


def map_of(layers: int, heads: int, queries: int, keys: int, tokens: tuple[str, ...] = ()) -> AttentionMap:
    weights = np.random.default_rng(0).random((layers, heads, queries, keys), np.float32)
    weights /= weights.sum(axis=-1, keepdims=True)
    names = tokens or tuple(f"t{i}" for i in range(max(queries, keys)))
    return AttentionMap(
        "cross", tuple(range(layers)), tuple(range(8, 8 + heads)), names[:queries], names[:keys], weights
    )


@pytest.mark.parametrize("shape", [(2, 3, 5, 9), (1, 1, 1, 1), (12, 2, 120, 110)])
def test_a_picture_shows_every_weight(shape: tuple[int, int, int, int]) -> None:
    one = map_of(*shape)
    pixels, colours = decoded(attention_png(one))
    zoom = max(1, 96 // max(shape[2:]))
    height, width = shape[2] * zoom + 6, shape[3] * zoom + 6
    top, left = (pixels.shape[0] - shape[0] * height), (pixels.shape[1] - shape[1] * width)
    shades = pixels[top:, left:].reshape(shape[0], height, shape[1], width).swapaxes(1, 2)
    assert (shades[:, :, -6:] == 254).all()
    shown = (shades[:, :, : shape[2] * zoom : zoom, : shape[3] * zoom : zoom] / 253) ** 2
    assert np.abs(shown - one.weights).max() < 0.005
    assert (pixels[:top] == 255).any()
    assert (pixels[:, :left] == 255).any()
    assert len(colours) == 256
    brightness = colours[:254].astype(int).sum(axis=1)
    assert (np.diff(brightness) <= 0).all()


def test_a_picture_that_is_too_large_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention_image, "MOST_PIXELS", 5000)
    with pytest.raises(ConfigError, match=r"a picture of \d+ x \d+ pixels is too large"):
        attention_png(map_of(1, 1, 9, 9))


HOSTILE = ("</script><script>alert(1)</script>", "<!--", "&lt;", "\u2028", '"', "\\", "é🦙")


def page_data(page: str) -> dict[str, object]:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    assert found
    data: dict[str, object] = json.loads(found[1])
    return data


def test_a_page_holds_every_weight() -> None:
    one = map_of(2, 3, 4, 5)
    data = page_data(attention_page.attention_page(Attention("tiny", 4, "an answer", (one,))))
    (packed,) = data["maps"]  # type: ignore[misc]
    steps = np.frombuffer(base64.b64decode(packed["weights"]), "<u2").reshape(one.weights.shape)
    assert np.abs(steps / 65535 - one.weights).max() < 1e-5
    assert packed["heads"] == [8, 9, 10]
    assert np.abs(np.array(packed["entropy"]) - one.entropy).max() < 1e-3
    assert (data["model"], data["promptTokens"], data["answer"]) == ("tiny", 4, "an answer")


def test_tokens_stay_text() -> None:
    tokens = HOSTILE
    one = map_of(1, 1, len(tokens), len(tokens), tokens)
    page = attention_page.attention_page(Attention("</title><b>", 7, "<img src=x>", (one,)))
    assert page.count("<script") == 2
    assert page.count("</script>") == 2
    assert "<b>" not in page
    assert "<img" not in page
    assert page_data(page)["maps"][0]["keys"] == list(tokens)  # type: ignore[index]


def test_a_page_writes_the_entropies_of_the_terminal() -> None:
    one = map_of(3, 5, 7, 7)
    (packed,) = page_data(attention_page.attention_page(Attention("tiny", 7, "", (one,))))["maps"]  # type: ignore[misc]
    assert packed["bits"] == [[f"{bits:.2f}" for bits in layer] for layer in one.entropy]
    assert packed["entropy"] == one.entropy.astype(float).tolist(), "not rounded, as a second rounding may go elsewhere"


def test_a_page_asks_nobody_for_anything() -> None:
    page = attention_page.attention_page(Attention("tiny", 1, "", (map_of(1, 1, 1, 1),)))
    assert "default-src 'none'" in page
    assert not re.search(r"https?:|src=[\"']|href=|@import|url\(", page)
    assert "@" not in re.sub(r"@media[^{]*", "", page)


def test_a_page_that_is_too_large_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention_page, "MOST_WEIGHTS", 80)
    with pytest.raises(ConfigError, match="a page holds at most 80 attention weights, not 81"):
        attention_page.attention_page(Attention("tiny", 9, "", (map_of(1, 1, 9, 9),)))
