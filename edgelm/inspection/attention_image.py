"""Attention maps as one picture: a row of heat maps for each layer, a column for each head, both with their numbers.

Queries go down, keys to the right; the darker, the more a token is looked at. Weights are mostly small, so a colour
stands for the square root.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edgelm.errors import ConfigError
from edgelm.inspection.maps import AttentionMap
from edgelm.inspection.png import png_bytes

# What viewers still open.
MOST_PIXELS = 1 << 26
# From weight 0 to weight 1.
ANCHORS = ((252, 252, 253), (196, 217, 240), (104, 164, 218), (42, 98, 178), (14, 30, 84))
_SHADES = 254
_GAP, _INK = 254, 255
_GAP_COLOUR, _INK_COLOUR = (206, 210, 216), (40, 44, 52)
# Heat maps of short texts are drawn larger, up to so many pixels.
_COMFORTABLE = 96
_SPACE = 6

# Digits of 3 x 5 pixels, row by row.
_DIGITS = (
    "111101101101111",
    "010110010010111",
    "111001111100111",
    "111001111001111",
    "101101111001001",
    "111100111001111",
    "111100111101111",
    "111001001001001",
    "111101111101111",
    "111101111001111",
)
_PIXEL = 2


def attention_png(attention_map: AttentionMap) -> bytes:
    """The picture of all layers and heads of a map, as a PNG file.

    Raises:
        ConfigError: it would be too large; says how large.
    """
    weights = attention_map.weights
    layers, heads, queries, keys = weights.shape
    zoom = max(1, _COMFORTABLE // max(queries, keys))
    height, width = queries * zoom + _SPACE, keys * zoom + _SPACE
    left, top = _label_width(attention_map.layers), 5 * _PIXEL + 2 * _SPACE
    size = top + layers * height, left + heads * width
    if size[0] * size[1] > MOST_PIXELS:
        raise ConfigError(
            f"a picture of {size[1]} x {size[0]} pixels is too large (most are {MOST_PIXELS}): choose layers or heads"
        )
    image = np.full(size, _GAP, np.uint8)
    for column, head in enumerate(attention_map.heads):
        _write(image, str(head), _SPACE, left + column * width)
    for row, layer in enumerate(attention_map.layers):
        _write(image, str(layer), top + row * height, _SPACE)
        for column in range(heads):
            x, y = left + column * width, top + row * height
            cells = np.sqrt(weights[row, column]) * (_SHADES - 1)
            cells = np.clip(np.rint(cells), 0, _SHADES - 1).astype(np.uint8).repeat(zoom, 0).repeat(zoom, 1)
            image[y : y + queries * zoom, x : x + keys * zoom] = cells
    return png_bytes(image, palette())


def palette() -> NDArray[np.uint8]:
    """The colours: 254 shades from weight 0 to 1, what lies between heat maps, and ink; (256, 3) uint8."""
    places = np.linspace(0, len(ANCHORS) - 1, _SHADES)
    channels = [np.interp(places, np.arange(len(ANCHORS)), channel) for channel in zip(*ANCHORS, strict=True)]
    return np.vstack([np.stack(channels, axis=1), _GAP_COLOUR, _INK_COLOUR]).round().astype(np.uint8)


def _label_width(layers: tuple[int, ...]) -> int:
    return 4 * _PIXEL * len(str(max(layers))) + 2 * _SPACE


def _write(image: NDArray[np.uint8], number: str, y: int, x: int) -> None:
    """Draws a number; its upper left corner is at (y, x)."""
    for digit in number:
        dots = np.array([char == "1" for char in _DIGITS[int(digit)]]).reshape(5, 3)
        dots = dots.repeat(_PIXEL, 0).repeat(_PIXEL, 1)
        region = image[y : y + dots.shape[0], x : x + dots.shape[1]]
        region[dots[: region.shape[0], : region.shape[1]]] = _INK
        x += 4 * _PIXEL
