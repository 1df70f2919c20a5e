"""One run of a decoder graph with a key/value cache: its small inputs and its logits, bound and written in place."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgelm.runtime.embedding import EmbeddingTable
from edgelm.runtime.session import Binding, Session, Tensor


class DecoderRun:
    """A binding for runs of (B, S) new tokens; the cache, and what else the graph reads, is for others to bind.

    Args:
        session: a graph with the contract of ``bundle.decoder_contract``.
        shape: (B, S).
        wanted: (R,) which of the B·S tokens' logits the runs give, in that order.
        embedding: turns ids into vectors, for a graph that takes those.
        logits: memory for them, (R, V) float32; None: its own.

    Attributes:
        logits: (R, V) float32, overwritten by each run.
    """

    def __init__(
        self,
        session: Session,
        shape: tuple[int, int],
        wanted: NDArray[np.int64],
        embedding: EmbeddingTable | None,
        logits: NDArray[np.float32] | None = None,
    ) -> None:
        self.binding: Binding = session.binding()
        self._embedding = embedding
        self._ids = np.zeros(shape, np.int64)
        self._vectors = None if embedding is None else np.zeros((*shape, embedding.columns), np.float32)
        self._positions = np.zeros(shape, np.int64) if "position_ids" in session.inputs else None
        self._wanted = wanted.astype(np.int64)
        self._last = np.zeros(shape[0], np.int32)
        self._longest = np.zeros((), np.int32)
        inputs: dict[str, NDArray[Any] | None] = {
            "seqlens_k": self._last,
            "total_sequence_length": self._longest,
            "logit_index": self._wanted,
            "position_ids": self._positions,
            "input_ids": self._ids,
            "inputs_embeds": self._vectors,
        }
        for name, array in inputs.items():
            if name in session.inputs and array is not None:
                self.binding.input(name, Tensor(array))
        if logits is None:
            logits = np.empty((len(wanted), int(session.outputs["logits"].shape[1])), np.float32)
        self.logits = logits
        self.binding.output("logits", Tensor(self.logits))

    def want(self, wanted: NDArray[np.int64]) -> None:
        """Gives the logits of other tokens, as many as before."""
        self._wanted[:] = wanted

    def set(self, tokens: NDArray[np.int64], past: NDArray[np.int64], valid: NDArray[np.int64]) -> None:
        """The tokens (B, S), how many stand before them in each row, and how many are valid with them, (B,) each."""
        self._ids[:] = tokens
        if self._embedding is not None and self._vectors is not None:
            self._embedding.lookup(self._ids.ravel(), self._vectors.reshape(-1, self._vectors.shape[-1]))
        if self._positions is not None:
            # What pads a row has the position of its last token: one that exists.
            np.minimum(past[:, None] + np.arange(tokens.shape[1]), valid[:, None] - 1, out=self._positions)
        self._last[:] = valid - 1
        self._longest[...] = valid.max()
