"""What an encoder says of its sources, computed once: keys and values for the decoder's cross-attention.

The operator wants a row of them for each row of the decoder, so beams have copies of one source's; a slot that is
taken over by another row of the same source keeps its copy.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edgelm.errors import ModelError
from edgelm.runtime.session import Binding, Session, Switch, Tensor, give_back_freed_memory
from edgelm.runtime.token_rows import Ids, padded

MASK = "encoder_attention_mask"
_CROSS = "cross_key_values."
_TYPES = "token_type_ids"


class SourceRows:
    """Cross-attention's inputs, a slot a row.

    Args:
        arrays: ``cross_key_values.*`` (B, heads, L, head_size) float32 and ``encoder_attention_mask`` (B, L) int32.

    Attributes:
        sources: (slots,) which source a slot holds.
    """

    def __init__(self, arrays: dict[str, NDArray[np.float32] | NDArray[np.int32]]) -> None:
        self._arrays = arrays
        self.sources = np.arange(len(arrays[MASK]), dtype=np.int64)

    def reserve(self, slots: int) -> None:
        """Makes room for so many slots; where there are fewer, they move, and are to be bound anew."""
        before = len(self.sources)
        if slots <= before:
            return
        for name, array in self._arrays.items():
            grown = np.empty((slots, *array.shape[1:]), array.dtype)
            grown[:before] = array
            self._arrays[name] = grown
        self.sources = np.concatenate((self.sources, np.full(slots - before, -1, np.int64)))

    def copy(self, source: int, target: int) -> None:
        """Makes slot ``target`` what slot ``source`` is."""
        if self.sources[target] == self.sources[source]:
            return
        for array in self._arrays.values():
            array[target] = array[source]
        self.sources[target] = self.sources[source]

    def bind(self, binding: Binding, first: int, count: int) -> None:
        """Binds ``count`` slots as inputs."""
        for name, array in self._arrays.items():
            binding.input(name, Tensor(array[first : first + count]))


def encode_sources(session: Session, sources: Sequence[Ids], switch: Switch, *, pad_token_id: int) -> SourceRows:
    """One forward pass of an encoder-decoder's encoder.

    Args:
        session: the encoder.
        sources: token ids, of any lengths above 0.
        switch: ends the run.
        pad_token_id: what fills shorter rows.

    Raises:
        CancelledError, ClosedError, MemoryLimitError, ModelError: as ``Session.run``.
    """
    ids, mask = padded(sources, pad_token_id)
    given = {"input_ids": ids, "attention_mask": mask.astype(np.int64)}
    if _TYPES in session.inputs:
        given[_TYPES] = np.zeros_like(ids)
    binding = session.binding()
    for name, array in given.items():
        binding.input(name, Tensor(array))
    made = {}
    for name, info in session.outputs.items():
        if name.startswith(_CROSS):
            shape = (len(ids), int(info.shape[1]), ids.shape[1], int(info.shape[3]))
            made[name] = np.empty(shape, np.float32)
            binding.output(name, Tensor(made[name]))
    session.run(binding, switch)
    give_back_freed_memory()  # what runs leave behind, short ones too, would add up
    return SourceRows({**made, MASK: mask.astype(np.int32)})


def check_cross_shapes(encoder: Session, decoder: Session) -> None:
    """Refuses a decoder whose cross-attention is not what the encoder gives out.

    Raises:
        ModelError: it is not; names the first difference.
    """
    for name, info in decoder.inputs.items():
        if name.startswith(_CROSS):
            given = encoder.outputs.get(name)
            if given is None or (given.shape[1], given.shape[3]) != (info.shape[1], info.shape[3]):
                found = "nothing" if given is None else str(given.shape)
                raise ModelError(f"the decoder takes {name} {info.shape}, the encoder gives {found}")
