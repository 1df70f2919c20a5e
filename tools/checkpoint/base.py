"""What every checkpoint reader offers to the exporter: tensors by their Hugging Face names, one at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from edgelm.bundle.manifest import Pooling


@dataclass(frozen=True, slots=True)
class BlockQuantized:
    """A weight matrix that is already quantized in symmetric blocks along its input dimension.

    ``values``: (N, K) int8 with ``weight[n, k] = values[n, k] * scales[n, k // block_size]``;
    ``scales``: (N, K / block_size) float32; ``bits``: 8 or 4 (for 4 the values lie in [-8, 7]).
    """

    values: NDArray[np.int8]
    scales: NDArray[np.float32]
    block_size: int
    bits: int


@dataclass(frozen=True, slots=True)
class TextAssets:
    """The text side of a checkpoint, ready to be written into a bundle.

    ``tokenizer``: bytes of a ``tokenizer.json``; ``chat_template``: Jinja source or None; ``generation_config``:
    the values of ``generation_config.json`` (may be empty); ``special_tokens``: role (``bos_token``, ``eos_token``,
    ``unk_token``, ``pad_token``, …) → the token's text, as chat templates see them; ``pooling``: how
    sentence-transformers makes a vector of this encoder's hidden states; ``max_length``: tokens that it gives the
    encoder at most; ``cleans_up_spaces``: decoded text loses the spaces before punctuation.
    """

    tokenizer: bytes
    chat_template: str | None = None
    generation_config: dict[str, Any] = field(default_factory=dict)
    special_tokens: dict[str, str] = field(default_factory=dict)
    pooling: Pooling | None = None
    max_length: int | None = None
    cleans_up_spaces: bool = False


class Checkpoint(Protocol):
    """An open checkpoint: memory-mapped, read tensor by tensor, never executed.

    ``config`` has the fields of a Hugging Face ``config.json``, whatever the file format.
    """

    config: dict[str, Any]

    def names(self) -> Iterable[str]:
        """Names of all tensors, in Hugging Face's naming (``model.layers.0.self_attn.q_proj.weight``)."""
        ...

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor, without reading it."""
        ...

    def tensor(self, name: str) -> NDArray[np.float32]:
        """The tensor's values as a new float32 array (dequantized if need be).

        Raises:
            ModelError: there is no such tensor; names it.
        """
        ...

    def row_parts(self, name: str, most_values: int) -> Iterator[NDArray[np.float32]]:
        """The rows of ``tensor`` in their order, some at a time, so that a large one is never there whole.

        A part has up to ``most_values`` values, or one row; all in one where the rows do not lie apart in the file.
        """
        ...

    def quantized(self, name: str) -> BlockQuantized | None:
        """The tensor's own integers where the file has it in symmetric blocks (Q8_0, Q4_0), else None."""
        ...

    def text_assets(self) -> TextAssets:
        """Tokenizer, chat template and generation settings.

        Raises:
            UnsupportedModelError: the tokenizer is of a kind that cannot be converted exactly.
        """
        ...

    def close(self) -> None:
        """Unmaps the files."""
        ...
