"""Choosing rows anew: every row is where it should be, and no plan copies more than it must."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from edgelm.runtime.row_slots import plan_selection


@st.composite
def selections(draw):
    count = draw(st.integers(1, 9))
    slots = np.array(draw(st.permutations(range(count))), np.int64)
    rows = np.array(draw(st.lists(st.integers(0, count - 1), min_size=1, max_size=12)), np.int64)
    groups = np.array(draw(st.lists(st.integers(0, 3), min_size=count, max_size=count)), np.int64)
    return slots, rows, groups


def carried_out(plan, contents, count):
    """What the slots hold afterwards, copied in any order."""
    held = [*contents, *[None] * count]
    for source, target in plan.copies:
        held[target] = contents[source]
    return held


@given(selections(), st.booleans())
def test_each_new_row_is_the_old_row_it_was_to_be(selection, grouped):
    slots, rows, groups = selection
    contents = [f"slot {slot}" for slot in range(len(slots))]
    plan = plan_selection(slots, rows, groups if grouped else None)
    held = carried_out(plan, contents, len(rows))
    assert [held[slot] for slot in plan.slots] == [contents[slots[row]] for row in rows]
    assert sorted(plan.slots.tolist()) == list(range(len(rows)))


@given(selections())
def test_copies_do_not_depend_on_their_order_and_are_as_few_as_can_be(selection):
    slots, rows, groups = selection
    plan = plan_selection(slots, rows, groups)
    assert not {source for source, _ in plan.copies} & {target for _, target in plan.copies}
    stay = {slot for slot in slots[rows].tolist() if slot < len(rows)}
    assert len(plan.copies) == len(rows) - len(stay)


@given(st.integers(1, 9), st.randoms())
def test_reordering_copies_nothing(count, random):
    rows = list(range(count))
    random.shuffle(rows)
    plan = plan_selection(np.arange(count), np.array(rows))
    assert plan.copies == ()
    assert plan.slots.tolist() == rows


def test_a_copy_goes_to_a_free_slot_of_its_own_group():
    # Two sources with two beams each; both keep one beam twice.
    plan = plan_selection(np.arange(4), np.array([1, 1, 2, 2]), np.array([0, 0, 1, 1]))
    assert set(plan.copies) == {(1, 0), (2, 3)}


def test_rows_close_the_gaps_that_others_leave():
    plan = plan_selection(np.arange(5), np.array([1, 4]))
    assert plan.copies == ((4, 0),)
    assert plan.slots.tolist() == [1, 0]
