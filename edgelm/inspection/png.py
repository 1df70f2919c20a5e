"""Writes images as PNG: indexed colours, compressed with zlib. Source: www.w3.org/TR/png-3."""

from __future__ import annotations

import struct
import zlib

import numpy as np
from numpy.typing import NDArray

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_BITS = 8
_INDEXED = 3
_UNFILTERED = 0


def png_bytes(image: NDArray[np.uint8], palette: NDArray[np.uint8]) -> bytes:
    """An image as a PNG file.

    Args:
        image: (height, width) uint8, each a row of the palette; at least one pixel.
        palette: (colours, 3) uint8, red, green and blue; at most 256.
    """
    height, width = image.shape
    rows = np.empty((height, width + 1), np.uint8)
    rows[:, 0] = _UNFILTERED
    rows[:, 1:] = image
    header = struct.pack(">IIBBBBB", width, height, _BITS, _INDEXED, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"PLTE", palette.tobytes()), (b"IDAT", zlib.compress(rows.tobytes())), (b"IEND", b""))
    return _SIGNATURE + b"".join(_chunk(kind, data) for kind, data in chunks)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
