"""A matrix in blocks, part by part: those that its checkpoint has already are not changed, all else is rounded."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from edgelm_tools.checkpoint.base import BlockQuantized
from edgelm_tools.matrix import Matrix, floats
from edgelm_tools.quantize import blockwise
from edgelm_tools.quantize.blockwise import Blocks
from edgelm_tools.quantize.gptq import round_blocks_to_inputs


def quantized_parts(
    matrix: Matrix, bits: int, block_size: int, factor: NDArray[np.float32] | None = None
) -> Iterator[Blocks]:
    """Some rows at a time; ``bits``: 8 or 4; ``factor``: of int4, that of ``gptq`` where the inputs are known."""
    carry = blockwise.carry_int8 if bits == 8 else blockwise.carry_int4
    for part in matrix.few_rows():
        if isinstance(part, BlockQuantized) and (part.bits, part.block_size) == (bits, block_size):
            yield carry(part)
        elif bits == 8:
            yield blockwise.quantize_int8(floats(part), block_size)
        elif factor is None:
            yield blockwise.quantize_int4(floats(part), block_size)
        else:
            yield round_blocks_to_inputs(floats(part), block_size, factor)
