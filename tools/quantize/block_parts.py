"""A matrix in blocks, part by part: those that its checkpoint has already are not changed, all else is rounded."""

from __future__ import annotations

from collections.abc import Iterator

from edgelm_tools.checkpoint.base import BlockQuantized
from edgelm_tools.matrix import Matrix, floats
from edgelm_tools.quantize import blockwise
from edgelm_tools.quantize.blockwise import Blocks


def quantized_parts(matrix: Matrix, bits: int, block_size: int) -> Iterator[Blocks]:
    """Some rows at a time; ``bits``: 8 or 4."""
    quantize = blockwise.quantize_int8 if bits == 8 else blockwise.quantize_int4
    carry = blockwise.carry_int8 if bits == 8 else blockwise.carry_int4
    for part in matrix.few_rows():
        if isinstance(part, BlockQuantized) and (part.bits, part.block_size) == (bits, block_size):
            yield carry(part)
        else:
            yield quantize(floats(part), block_size)
