"""The encoder of an encoder-decoder in the graphs of another tool: rows of ids in, what the decoder needs out."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgelm.errors import UnsupportedModelError
from edgelm.runtime.foreign.graph import Source
from edgelm.runtime.session import Session, Switch, Tensor, give_back_freed_memory
from edgelm.runtime.token_rows import Ids, padded

# What a run of fewer leaves behind is not worth the milliseconds that giving it back takes.
_MANY_TOKENS = 1024


class SourceEncoder:
    """A session of an encoder; may be used by many threads.

    Args:
        session: a graph with ``input_ids`` and perhaps ``attention_mask`` and ``token_type_ids`` (B, L) →
            ``last_hidden_state`` (B, L, H).
        pad_token_id: what fills shorter rows.
        masked: whether the decoder takes the mask, too.
    """

    def __init__(self, session: Session, *, pad_token_id: int, masked: bool) -> None:
        self._session = session
        self._pad = pad_token_id
        self._masked = masked and "attention_mask" in session.inputs

    def encode(self, rows: Sequence[Ids], switch: Switch) -> Source:
        """Reads sources of any lengths above 0, padded on the right; ``switch`` may end the run.

        Raises:
            UnsupportedModelError: they are of several lengths, and a graph takes no mask: padding would be read.
            CancelledError, ClosedError, MemoryLimitError, ModelError: as ``Session.run``.
        """
        ids, tokens = padded(rows, self._pad)
        if not (self._masked or tokens.all()):
            raise UnsupportedModelError("this model takes no mask: only sources of one length can run together")
        mask = tokens.astype(np.int64)
        given = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
        binding = self._session.binding()
        for name, array in given.items():
            if name in self._session.inputs:
                binding.input(name, Tensor(array))
        binding.new_output("last_hidden_state")
        self._session.run(binding, switch)
        (hidden,) = binding.taken()
        if ids.size >= _MANY_TOKENS:
            give_back_freed_memory()
        return Source(hidden.array, mask)

    def close(self) -> None:
        """Gives the graph and its weights back; may be called twice."""
        self._session.close()
