"""Classifier-free guidance: what the prompt makes likelier than another prompt would is made likelier still."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from edgelm.generation.distributions import log_softmax
from edgelm.generation.logits_processors import Ids, Logits


class GuidingDecoder(Protocol):
    """A decoder with an empty KV cache; see ``loop.Decoder``."""

    def prefill(self, ids: Ids) -> NDArray[np.float32]:
        """Appends tokens, at least one; the last one's logits."""
        ...

    def step(self, token: int) -> NDArray[np.float32]:
        """Appends one token; its logits."""
        ...


class Guidance:
    """Weighs a sequence's log probabilities against those behind another prompt, with the same answer so far.

    A scale above 1 follows the prompt more closely, below 1 less. A processor of one answer: each call is a step.
    As in transformers 4.57, where it comes before all other processors. Source: Sanchez et al. 2023, arXiv 2306.17806.

    Args:
        decoder: for the other prompt.
        scale: 1 changes nothing.
        negative: (T,) the other prompt, what the answer should not follow; None: the last token of the prompt.
    """

    def __init__(self, decoder: GuidingDecoder, scale: float, negative: Ids | None = None) -> None:
        self._decoder = decoder
        self._scale = np.float32(scale)
        self._negative = negative
        self._begun = False

    def __call__(self, ids: Ids, logits: Logits) -> Logits:
        """Returns guided log probabilities; what the model rules out stays so."""
        guided = log_softmax(logits)
        other = log_softmax(self._other(ids))
        possible = np.isfinite(guided) & np.isfinite(other)
        guided[possible] = self._scale * (guided[possible] - other[possible]) + other[possible]
        return guided

    def _other(self, ids: Ids) -> Logits:
        if self._begun:
            return self._decoder.step(int(ids[-1]))
        self._begun = True
        return self._decoder.prefill(ids[-1:] if self._negative is None else self._negative)
