"""The draws of our beam sampling in transformers' place, so that all else can be compared."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from edgelm.generation.beam_draw import draw_several
from edgelm.generation.sampling import next_uniform


@contextlib.contextmanager
def our_draws(seed: int, *, vocab_size: int, never: int) -> Iterator[None]:
    """torch.multinomial with our uniforms of a seed, for one source.

    Where no continuation of any probability is left, theirs takes one of no probability: here with the token ``never``,
    which ends nothing and is likely nowhere.
    """
    import torch

    random = np.random.PCG64(seed)

    def multinomial(probabilities: Any, num_samples: int) -> Any:
        with np.errstate(divide="ignore"):
            logarithms = np.log(probabilities[0].numpy())
        drawn = draw_several(logarithms, [next_uniform(random) for _ in range(num_samples)])
        drawn = drawn[logarithms[drawn] > -np.inf]
        ruled_out = np.flatnonzero(logarithms == -np.inf)
        harmless = ruled_out % vocab_size == never
        fillers = np.append(ruled_out[harmless], ruled_out[~harmless])[: num_samples - drawn.size]
        return torch.from_numpy(np.append(drawn, fillers))[None]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "multinomial", multinomial)
        yield
