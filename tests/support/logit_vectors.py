"""Hypothesis strategies for logits: of every shape that a model or a processor can give, finite or -inf."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

KINDS = ("normal", "flat", "peaked", "tied", "equal", "huge", "zipf")


@st.composite
def generated_logits(
    draw: st.DrawFn, *, least: int = 50, most: int = 5000, masked: bool = True, kinds: tuple[str, ...] = KINDS
) -> NDArray[np.float32]:
    """(V,) float32 with V from ``least`` to ``most``; some of them -inf if ``masked``."""
    size = draw(st.integers(least, most))
    kind = draw(st.sampled_from(kinds))
    logits = _values(kind, size, np.random.default_rng(draw(st.integers(0, 2**32))))
    if masked and draw(st.booleans()):
        share = draw(st.sampled_from((0.1, 0.9, 0.999)))
        rng = np.random.default_rng(size)
        logits[rng.random(size) < share] = -np.inf
        logits[rng.integers(size)] = 0.0
    return logits


def small_logits() -> st.SearchStrategy[NDArray[np.float32]]:
    """Up to 40 adversarial values: any float32 up to 1e30 either way, or multiples of 1/2, or -inf; not all -inf."""
    any_float = st.floats(-(2.0**99), 2.0**99, width=32)
    stepped = st.integers(-8, 8).map(lambda n: n / 2)
    values = st.one_of(any_float, stepped, stepped, st.just(-np.inf))
    return hnp.arrays(np.float32, st.integers(1, 40), elements=values).filter(lambda x: bool(np.isfinite(x).any()))


def _values(kind: str, size: int, rng: np.random.Generator) -> NDArray[np.float32]:
    match kind:
        case "normal":
            values = rng.normal(0.0, 3.0, size)
        case "flat":
            values = rng.normal(0.0, 0.1, size)
        case "peaked":
            values = rng.normal(0.0, 1.0, size)
            values[rng.integers(size)] = 25.0
        case "tied":
            values = np.round(rng.normal(0.0, 2.0, size))
        case "equal":
            values = np.full(size, 1.5)
        case "huge":
            values = rng.normal(0.0, 1.0, size) * 10.0 ** rng.integers(-10, 37, size)
        case _:
            values = 15.0 - 1.5 * np.log(rng.permutation(size) + 1.0) + rng.normal(0.0, 0.5, size)
    return values.astype(np.float32)
