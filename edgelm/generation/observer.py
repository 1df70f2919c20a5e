"""Being told how each token is chosen, stage by stage, by the very functions that choose it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from edgelm.generation.logits_processors import Ids, Logits, LogitsProcessor


class Observer(Protocol):
    """Follows one answer; each step is ``began``, ``processed`` and ``warped`` as often as there are stages, ``chose``.

    What it is shown it may neither change nor keep: the next stage may write over it.
    """

    def began(self, ids: Ids, logits: Logits) -> None:
        """The model's logits, (V,) float32, behind the tokens ``ids``, (T,)."""
        ...

    def processed(self, processor: LogitsProcessor, logits: Logits) -> None:
        """The logits, (V,), after a processor."""
        ...

    def warped(self, warper: LogitsProcessor, tokens: NDArray[np.intp] | None, logits: Logits) -> None:
        """What a warper kept: tokens, ascending (None: all), and their logits."""
        ...

    def chose(self, token: int, uniform: float | None) -> None:
        """The token, and the number in [0, 1) that was drawn for it; None: the likeliest was taken."""
        ...
