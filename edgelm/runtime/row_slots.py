"""Which slot of the buffers each row of a batch lies in, so that choosing rows anew copies as little as can be.

A row that goes on stays where it is, whatever its number becomes; only its further copies, and rows in slots behind
the last one still needed, are copied, into slots that nobody uses any more.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Plan(NamedTuple):
    """What becomes of the rows.

    Attributes:
        slots: (R,) the slot of each new row: each of 0 … R-1 once.
        copies: (from, to) pairs of slots, in any order: none writes what another reads.
    """

    slots: NDArray[np.int64]
    copies: tuple[tuple[int, int], ...]


def plan_selection(
    slots: NDArray[np.int64], rows: NDArray[np.int64], groups: Sequence[int] | NDArray[np.int64] | None = None
) -> Plan:
    """Where the rows go when new row r is to be old row ``rows[r]``.

    Args:
        slots: (B,) the slot of each old row.
        rows: (R,) numbers of old rows: repeated, reordered, left out.
        groups: slot → what it has in common with others; a copy goes to a slot of its own group where one is free.
    """
    count = len(rows)
    wanted = slots[rows]
    placed = np.full(count, -1, np.int64)
    taken = set()
    for row, slot in enumerate(wanted.tolist()):
        if slot < count and slot not in taken:
            placed[row] = slot
            taken.add(slot)
    free = [slot for slot in range(count) if slot not in taken]
    pending = np.flatnonzero(placed < 0).tolist()
    if groups is not None:
        for row in pending:
            own = next((slot for slot in free if slot < len(groups) and groups[slot] == groups[wanted[row]]), None)
            if own is not None:
                placed[row] = own
                free.remove(own)
    for row in pending:
        if placed[row] < 0:
            placed[row] = free.pop(0)
    return Plan(placed, tuple((int(wanted[row]), int(placed[row])) for row in pending))
