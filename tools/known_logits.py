"""The logits of texts whose hidden states are known: what only the end of a decoder is needed for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from edgelm.runtime.session import Session, Tensor
from edgelm_tools.runs import run

LOGITS = "logits"
HiddenStates = Mapping[str, NDArray[np.float32]]
"""What the end of a decoder reads of one text, by its inputs' names: (T, width) or (1, T, width) each."""
StatesOfTexts = Mapping[tuple[int, ...], HiddenStates]
"""The same of several, by their token ids."""


class KnownLogits:
    """Computes the logits of texts that were given to it, and of no others.

    Args:
        session: the end of a decoder: hidden states → ``logits (rows, vocab)``.
        states: token ids → hidden states.
        chunk: tokens whose logits are computed at a time.
    """

    def __init__(self, session: Session, states: StatesOfTexts, chunk: int) -> None:
        self._session = session
        self._states = states
        self._chunk = chunk

    def rewind(self, length: int) -> None:
        """As in ``Decoder``: nothing is kept from one text to the next."""

    def all_logits(self, ids: Sequence[int]) -> Iterator[NDArray[np.float32]]:
        """The logits of every token of a text, chunk by chunk: (S, V) float32 each."""
        states = self._states[tuple(ids)]
        vocab_size = int(self._session.outputs[LOGITS].shape[1])
        for start in range(0, len(ids), self._chunk):
            end = min(start + self._chunk, len(ids))
            logits = Tensor(np.empty((end - start, vocab_size), np.float32))
            run(
                self._session,
                {name: Tensor(rows[..., start:end, :]) for name, rows in states.items()},
                {LOGITS: logits},
            )
            yield logits.array
