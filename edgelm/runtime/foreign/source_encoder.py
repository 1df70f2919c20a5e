"""The encoder of an encoder-decoder in the graphs of another tool: rows of ids in, what the decoder needs out."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edgelm.runtime.foreign.graph import Source
from edgelm.runtime.session import Session, Switch, Tensor

Ids = Sequence[int] | NDArray[np.int64]


class SourceEncoder:
    """A session of an encoder; may be used by many threads.

    Args:
        session: a graph with ``input_ids`` and perhaps ``attention_mask`` (B, L) → ``last_hidden_state`` (B, L, H).
        pad_token_id: what fills shorter rows.
    """

    def __init__(self, session: Session, *, pad_token_id: int) -> None:
        self._session = session
        self._pad = pad_token_id

    def encode(self, rows: Sequence[Ids], switch: Switch) -> Source:
        """Reads sources of any lengths above 0, padded on the right; ``switch`` may end the run.

        Raises:
            CancelledError, ClosedError, MemoryLimitError, ModelError: as ``Session.run``.
        """
        lengths = np.array([len(row) for row in rows])
        mask = (np.arange(lengths.max()) < lengths[:, None]).astype(np.int64)
        ids = np.full(mask.shape, self._pad, np.int64)
        for place, row in enumerate(rows):
            ids[place, : len(row)] = row
        # The library borrows these arrays: they live to the end of the run.
        tensors = {
            name: Tensor(array)
            for name, array in (("input_ids", ids), ("attention_mask", mask))
            if name in self._session.inputs
        }
        binding = self._session.binding()
        for name, tensor in tensors.items():
            binding.input(name, tensor)
        binding.new_output("last_hidden_state")
        self._session.run(binding, switch)
        return Source(binding.fetched()[0], mask)

    def close(self) -> None:
        """Gives the graph and its weights back; may be called twice."""
        self._session.close()
