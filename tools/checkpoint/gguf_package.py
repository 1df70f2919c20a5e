"""The one place that imports the package ``gguf``: block sizes and dequantization of GGML's types."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgelm.errors import MissingDependencyError, UnsupportedModelError, how_to_install


def type_layout(type_id: int) -> tuple[str, int, int] | None:
    """Name, elements a block and bytes a block of a GGML type; None for an unknown type.

    Raises:
        MissingDependencyError: the package is not installed.
    """
    gguf = _gguf()
    try:
        kind = gguf.GGMLQuantizationType(type_id)
    except ValueError:
        return None
    block_size, block_bytes = gguf.GGML_QUANT_SIZES[kind]
    return kind.name, block_size, block_bytes


def dequantize(rows: NDArray[np.uint8], type_name: str) -> NDArray[np.float32]:
    """Values of the blocks in ``rows``: (R, bytes a row) uint8 → (R, elements a row) float32.

    Raises:
        UnsupportedModelError: the package has no dequantization for the type.
        MissingDependencyError: the package is not installed.
    """
    gguf = _gguf()
    try:
        # A scale that overflows or is NaN is the file's; what becomes of it is the caller's to judge.
        with np.errstate(all="ignore"):
            values: NDArray[np.float32] = gguf.quants.dequantize(rows, gguf.GGMLQuantizationType[type_name])
    except NotImplementedError:
        raise UnsupportedModelError(f"tensors of GGML type {type_name} cannot be dequantized") from None
    return values


def _gguf() -> Any:
    try:
        import gguf
        import gguf.quants
    except ImportError as error:
        raise MissingDependencyError(f"reading GGUF needs the package gguf; {how_to_install('tools')}") from error
    return gguf
