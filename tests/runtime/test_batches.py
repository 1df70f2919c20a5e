from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from edgelm.runtime.batches import pack


@given(lengths=st.lists(st.integers(1, 200)), budget=st.integers(1, 500))
def test_every_text_once_within_the_budget_longest_first(lengths: list[int], budget: int) -> None:
    batches = pack(lengths, budget)
    assert sorted(int(i) for batch in batches for i in batch) == list(range(len(lengths)))
    for batch in batches:
        longest = max(lengths[i] for i in batch)
        assert longest * len(batch) <= budget or len(batch) == 1
    order = [lengths[i] for batch in batches for i in batch]
    assert order == sorted(lengths, reverse=True)


def test_batches_are_full_where_they_can_be() -> None:
    assert [len(batch) for batch in pack([10] * 25, 100)] == [10, 10, 5]
    assert all(batch.dtype == np.int64 for batch in pack([3, 1], 4))
